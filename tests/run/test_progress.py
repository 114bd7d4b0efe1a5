"""Lines of progress: how many, how fast, how long still, and not too many of them."""

import itertools
import time

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from torch.utils.data import DataLoader

from diffdict.run import progress as lines
from diffdict.run.progress import ProgressLines, progress


class Task(pl.LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        """A loss that is shown."""
        loss = (self.weight * batch).sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        """Nothing."""

    predict_step = test_step

    def configure_optimizers(self):
        """Plain."""
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.fixture
def clock(monkeypatch):
    """Four seconds pass between two looks."""
    ticks = itertools.count(0, 4)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


def trainer(**settings) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        callbacks=[ProgressLines()], **settings,
    )  # fmt: skip


def said(capfd) -> list[str]:
    out, err = capfd.readouterr()
    return [line for line in (out + err).splitlines() if ": batch" in line]


BATCHES = DataLoader(torch.ones(40, 1), batch_size=1)


@pytest.mark.usefixtures("clock")
def test_a_training_says_step_loss_rate_and_what_is_left(capfd):
    trainer(max_steps=30, max_epochs=-1, accumulate_grad_batches=2).fit(Task(), BATCHES)
    lines = said(capfd)
    assert lines[0] == ("Training, step 1, loss 1: batch 3 of 60, 4.0 s a batch, 3 min 48 s left")
    assert len(lines) == 16, "every twelve seconds, then at a tenth of what has passed"
    assert lines[-1].startswith("Training, step 30, loss 1: batch 60 of 60, ")
    trainer(max_epochs=2).fit(Task(), BATCHES)
    assert "batch 3 of 80" in said(capfd)[0]


@pytest.mark.usefixtures("clock")
def test_a_test_counts_the_batches_of_all_loaders(capfd):
    trainer().test(Task(), [BATCHES, BATCHES], verbose=False)
    assert said(capfd)[0] == "Testing: batch 3 of 80, 4.0 s a batch, 5 min 8 s left"
    trainer().predict(Task(), BATCHES)
    assert said(capfd)[0] == "Making: batch 3 of 40, 4.0 s a batch, 2 min 28 s left"


def test_what_is_quick_says_nothing(capfd):
    trainer(max_epochs=1).fit(Task(), BATCHES)
    trainer().test(Task(), BATCHES, verbose=False)
    assert said(capfd) == []


@pytest.mark.usefixtures("clock")
def test_other_ranks_say_nothing(capfd):
    quiet = trainer()
    quiet.progress_bar_callback.disable()
    quiet.test(Task(), BATCHES, verbose=False)
    assert said(capfd) == []


@pytest.mark.parametrize(("terminal", "kind"), [(True, RichProgressBar), (False, ProgressLines)])
def test_a_terminal_has_a_bar(monkeypatch, terminal, kind):
    monkeypatch.setattr(lines, "Console", lambda: Console(force_terminal=terminal))
    assert type(progress()) is kind
