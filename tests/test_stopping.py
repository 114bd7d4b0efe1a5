"""A signal ends what runs between two batches, whatever runs."""

import signal

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from diffdict.stopping import StopBetweenBatches


class Counted(pl.LightningModule):
    """Notes each batch, and is sent a signal in one of them."""

    def __init__(self, number, at, times=1):
        super().__init__()
        self.number, self.at, self.times, self.done = number, at, times, []
        self.weight = torch.nn.Parameter(torch.ones(1))

    def _step(self, kind):
        for _ in range(self.times if (kind, len(self.done)) == self.at else 0):
            signal.raise_signal(self.number)
        self.done.append(kind)
        return self.weight.sum()

    def training_step(self, batch, batch_idx):
        return self._step("train")

    def validation_step(self, batch, batch_idx):
        self._step("validate")

    def test_step(self, batch, batch_idx):
        self._step("test")

    def predict_step(self, batch, batch_idx):
        return self._step("predict")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(verb, number, at, **how):
    """What was done until it stopped, and what stopped it."""
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        num_sanity_val_steps=0,
        callbacks=[StopBetweenBatches()],
    )
    module = Counted(number, at, **how)
    loader = torch.utils.data.DataLoader(torch.ones(4, 1))
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stop:
            getattr(trainer, verb)(module, *[loader] * (2 if verb == "fit" else 1))
    finally:
        signal.signal(signal.SIGINT, before)
    return module.done, stop.value


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("verb", "at", "done"),
    [
        ("fit", ("train", 1), ["train"] * 2),
        ("fit", ("train", 3), ["train"] * 4),
        ("fit", ("validate", 5), ["train"] * 4 + ["validate"] * 2),
        ("fit", ("validate", 7), ["train"] * 4 + ["validate"] * 4 + ["train"]),
        ("fit", ("validate", 15), (["train"] * 4 + ["validate"] * 4) * 2),
        ("test", ("test", 1), ["test"] * 2),
        ("predict", ("predict", 1), ["predict"] * 2),
    ],
)
def test_a_run_ends_with_the_batch_that_it_is_at(verb, at, done, number):
    found, stop = run(verb, number, at)
    assert found == done
    assert isinstance(stop, SIGTERMException) == (number == signal.SIGTERM)
    assert stop.code == (143 if number == signal.SIGTERM else 1)  # Lightning's after Ctrl-C


def test_ctrl_c_again_ends_it_at_once_and_sigterm_as_before():
    assert run("predict", signal.SIGINT, ("predict", 1), times=2)[0] == ["predict"]
    found, stop = run("predict", signal.SIGTERM, ("predict", 1), times=3)
    assert (found, stop.code) == (["predict"] * 2, 143)
