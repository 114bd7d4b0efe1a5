"""How far a run is: a bar in a terminal, and lines where its output goes into a file."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from rich.console import Console

from diffdict.files import console
from diffdict.reports.samples.bar import spoken_time

FIRST, LONGEST = 10.0, 600.0  # seconds from the start to the first line, and between two


def progress() -> ProgressBar:
    """What this run's output can show."""
    here = Console()
    return RichProgressBar() if here.is_terminal or here.is_jupyter else ProgressLines()


class ProgressLines(ProgressBar):
    """A line now and then, of all batches of a stage: how many, how fast, how long still.

    Lines come at a tenth of the time that has passed, so that a log of days is no longer than a
    screen or two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self._begin(0)

    def disable(self) -> None:
        """Lightning's word for other ranks."""
        self.enabled = False

    def enable(self) -> None:
        """Lightning's word for the first rank."""
        self.enabled = True

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Until the last step or the last epoch, whichever comes first."""
        each = trainer.num_training_batches
        ends = []
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            ends.append((trainer.max_epochs - trainer.current_epoch) * each)
        if trainer.max_steps >= 0:
            ends.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        self._begin(min(ends, default=float("inf")))

    def on_test_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """All batches of all loaders."""
        self._begin(sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """All batches of all loaders."""
        self._begin(sum(trainer.num_predict_batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """With the step and what the task shows beside a bar."""
        numbers = self.get_metrics(trainer, pl_module)
        numbers.pop("v_num", None)
        shown = [f"{name} {x:.4g}" for name, x in numbers.items() if isinstance(x, float)]
        self._another(", ".join([f"Training, step {trainer.global_step}", *shown]))

    def on_test_batch_end(self, *_: Any) -> None:
        """One more."""
        self._another("Testing")

    def on_predict_batch_end(self, *_: Any) -> None:
        """One more."""
        self._another("Making")

    def _begin(self, total: float | int) -> None:
        self.total, self.done = total, 0
        self.began, self.told = time.monotonic(), 0.0

    def _another(self, what: str) -> None:
        self.done += 1
        took = time.monotonic() - self.began
        if not self.enabled or took < self.told + min(max(FIRST, took / 10), LONGEST):
            return
        self.told = took
        words = [f"{what}: batch {self.done}"]
        if self.total < float("inf"):
            left = spoken_time(took * (self.total - self.done) / self.done)
            words = [f"{what}: batch {self.done} of {self.total:g}", f"{left} left"]
        rate = f"{took / self.done:.1f} s a batch"
        if took < self.done:
            rate = f"{self.done / took:.1f} batches a second"
        console().print(", ".join([words[0], rate, *words[1:]]), highlight=False, soft_wrap=True)
