"""Validation pictures above what the network in training draws with their codes, now and then."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from diffdict import files
from diffdict.backbones.autoencoders.autoencode import draw_with_codes, start_noise
from diffdict.backbones.pdae import Pdae
from diffdict.errors import at_least
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.samples.sample_grid import log_sheet
from diffdict.reports.subjects import DrawsFromCodes


class CodeSheet(pl.Callback):
    """Every n steps a sheet of the averages: to `codes/` and the logger."""

    def __init__(
        self, every_n_steps: int = 1000, pictures: int = 8, steps: int = 25, seed: int = 0
    ) -> None:
        """`steps`: how many timesteps DDIM visits. The noise is the same every time."""
        at_least(1, "callbacks.codes", every_n_steps=every_n_steps, pictures=pictures, steps=steps)
        self.every_n_steps, self.pictures = every_n_steps, pictures
        self.steps, self.seed, self.drawn = steps, seed, 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """One sheet for each multiple of `every_n_steps`, by the first rank."""
        step = trainer.global_step
        if step % self.every_n_steps or step == self.drawn or not trainer.is_global_zero:
            return
        self.drawn = step
        if not isinstance(pl_module, DrawsFromCodes):
            return
        images = validation_pictures(trainer.datamodule, self.pictures).to(pl_module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            pictures = self.draw(pl_module.pdae(), images)
        sheet = contact_sheet(images, beneath=as_bytes(pictures), columns=self.pictures)
        path = files.writable_folder(Path(trainer.default_root_dir) / "codes")
        path = path / f"step_{step:07d}.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        for logger in trainer.loggers:
            log_sheet(logger, sheet, step, "codes")

    def draw(
        self, net: Pdae, images: Float[Tensor, "pictures 3 size size"]
    ) -> Float[Tensor, "pictures 3 size size"]:
        """From noise that a picture owns by its place, with its code as it opens in training."""
        noise = start_noise(net, self.seed, range(len(images)))
        return draw_with_codes(net, net.codes(images).float(), noise, f"linspace{self.steps}")


def validation_pictures(
    data: pl.LightningDataModule, count: int
) -> Float[Tensor, "count 3 size size"]:
    """The first ones; of a set without any, training pictures."""
    split = "val" if len(data.split("val")) else "train"
    count = min(count, len(data.split(split)))
    return torch.stack([data.picture(split, index) for index in range(count)])
