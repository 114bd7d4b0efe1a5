"""The progress of sampling: every step of every sample, and the time that is left."""

import time

import pytorch_lightning as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from diffdict.files import console


class SampleBar(pl.callbacks.ProgressBar):
    """A batch of a thousand steps takes long: the bar moves with each of them.

    It counts what this rank draws, and what is left is said in days where it is days.
    """

    def __init__(self, title: str = "Sampling", unit: str = "samples") -> None:
        super().__init__()
        self.title, self.unit = title, unit
        self.bar: Progress | None = None
        self.enabled = True

    def disable(self) -> None:
        """Lightning's word for other ranks."""
        self.enabled = False

    def enable(self) -> None:
        """Lightning's word for the first rank."""
        self.enabled = True

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The bar, as long as all that is missing."""
        super().on_predict_start(trainer, pl_module)
        steps = pl_module.steps
        samples = sum(len(batch) for batch in trainer.predict_dataloaders.batches)
        columns = TextColumn(self.title), BarColumn(), MofNCompleteColumn()
        status = TextColumn(self.unit + " · {task.fields[left]}")
        self.bar = Progress(*columns, status, console=console(), disable=not self.enabled)
        self.task = self.bar.add_task("", total=samples, left="")
        self.began, self.done, self.all = time.monotonic(), 0, samples * steps
        pl_module.stepped = lambda count: self.step(count, steps)
        self.bar.start()

    def step(self, samples: int, steps: int) -> None:
        """So many samples are a step further, of so many."""
        self.done += samples
        took = time.monotonic() - self.began
        left = f"{spoken_time(took * (self.all / self.done - 1))} left"
        self.bar.update(self.task, completed=self.done / steps, left=left)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before anything else is said."""
        self.teardown(trainer, pl_module, "predict")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """However it ends."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def spoken_time(seconds: float) -> str:
    """As a person says it: 3 days 4 h, 2 h 5 min, 40 s."""
    minutes, hours, days = (int(seconds // unit) for unit in (60, 3600, 86400))
    if days:
        return f"{days} day{'s' * (days > 1)} {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"
