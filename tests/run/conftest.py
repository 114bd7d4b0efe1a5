"""A training of milliseconds that tells what it lived through, for tests of resuming it."""

import signal
from contextlib import suppress
from typing import NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader

from diffdict.data.batches.resumable import ResumableLoader
from diffdict.run.interruption.counters import ExactCounters
from diffdict.run.interruption.last_step import KeepLastStep
from diffdict.run.interruption.stop import StopBetweenBatches


class Numbers(ResumableLoader[torch.Tensor]):
    """Three batches an epoch; each says which it is."""

    def __len__(self):
        return 3

    def batches(self, epoch, taken):
        for place in range(taken, len(self)):
            yield torch.tensor([[epoch + 1.0, place + 1.0]])


class Data(pl.LightningDataModule):
    """Keeps its place, as ours do."""

    def __init__(self, judged):
        super().__init__()
        self.loader, self.judged = Numbers(0, {}), judged

    def train_dataloader(self):
        return self.loader

    def val_dataloader(self):
        return DataLoader(torch.ones(self.judged, 2)) if self.judged else []

    def state_dict(self):
        return self.loader.place()

    def load_state_dict(self, state):
        self.loader.go_to(state)


class Line(pl.LightningModule):
    """Learns what hangs on the order of its batches."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)
        nn.init.ones_(self.net.weight)
        self.told = []  # each thing once: batches, validations and epochs, with the step of the log

    def _tell(self, what, *more):
        at = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        self.told.append((what, self.current_epoch, self.global_step, at, *more))

    def training_step(self, batch, batch_idx):
        loss = self.net(batch).square().mean()
        self._tell("batch", batch_idx, *batch[0].tolist(), loss.item())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("judged", self.net(batch).mean())

    def on_validation_epoch_end(self):
        self._tell("validation")

    def on_train_epoch_end(self):
        self._tell("epoch")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Stop(pl.Callback):
    """SIGTERM at the moment of this number, of all that there are."""

    def __init__(self, at):
        self.at, self.moments = at, 0

    def _meet(self, *_):
        if self.moments == self.at:
            signal.raise_signal(signal.SIGTERM)
        self.moments += 1

    on_train_batch_end = on_validation_batch_end = on_validation_end = on_train_epoch_end = _meet


class Fit(NamedTuple):
    """What came of a training."""

    told: list
    weight: torch.Tensor
    epochs: int
    moments: int  # at which it can be stopped


@pytest.fixture(scope="session")
def fit():
    """`fit(folder, max_steps=5, stop=3)`: trains, and comes back when it was stopped too."""

    def train(folder, stop=None, resume=None, judged=2, keep=None, callbacks=(), **limits):
        torch.manual_seed(0)
        options = {"save_last": True, "save_on_exception": True, **(keep or {})}
        keeper = options.pop("keeper", KeepLastStep)(folder, "{step}", **options)
        module, stopped = Line(), Stop(stop)
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=[stopped, keeper, *callbacks, StopBetweenBatches(), ExactCounters()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{"max_epochs": 2, **limits},
        )
        with suppress(SIGTERMException):
            trainer.fit(module, Data(judged), ckpt_path=resume, weights_only=True)
        weight = module.net.weight.detach()
        return Fit(module.told, weight, trainer.current_epoch, stopped.moments)

    return train
