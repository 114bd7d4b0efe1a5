"""A sheet of what the network in training draws, now and then: in a folder and in loggers."""

from abc import ABC, abstractmethod
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image

from diffdict import files
from diffdict.errors import at_least


class TrainingSheet(pl.Callback, ABC):
    """Every n steps a sheet, by the first rank; what stands on it a subclass says."""

    folder = "samples"  # also its name in loggers

    def __init__(
        self, every_n_steps: int = 1000, pictures: int = 16, steps: int = 25, seed: int = 0
    ) -> None:
        """`steps`: how many timesteps DDIM visits. The start noise is the same every time."""
        settings = {"every_n_steps": every_n_steps, "pictures": pictures, "steps": steps}
        at_least(1, f"callbacks.{self.folder}", **settings)
        self.every_n_steps, self.pictures = every_n_steps, pictures
        self.steps, self.seed, self.last_step = steps, seed, 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """One sheet for each multiple of `every_n_steps`."""
        step = trainer.global_step
        if step % self.every_n_steps or step == self.last_step or not trainer.is_global_zero:
            return
        self.last_step = step
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            sheet = self.sheet(trainer, pl_module)
        if sheet is None:
            return
        path = files.writable_folder(Path(trainer.default_root_dir) / self.folder)
        path = path / f"step_{step:07d}.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        for logger in trainer.loggers:
            log_sheet(logger, sheet, step, self.folder)

    @abstractmethod
    def sheet(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Image.Image | None:
        """Of the average network; None where this module draws nothing such."""


def log_sheet(
    logger: pl.loggers.Logger, sheet: Image.Image, step: int, name: str = "samples"
) -> None:
    """The sheet in loggers that show pictures; others do without."""
    if isinstance(logger, pl.loggers.WandbLogger):
        logger.log_image(name, [sheet], step=step)
    elif isinstance(logger, pl.loggers.TensorBoardLogger):
        pixels = torch.tensor(list(sheet.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(sheet.height, sheet.width, 3)
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
