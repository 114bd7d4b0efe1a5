"""Validation pictures above what the network in training draws with their codes, now and then."""

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.autoencoders.autoencode import draw_with_codes, start_noise
from diffdict.backbones.pdae import Pdae
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.samples.training_sheet import TrainingSheet
from diffdict.reports.subjects import DrawsFromCodes


class CodeSheet(TrainingSheet):
    """Pictures beside what the averages draw with their codes."""

    folder = "codes"

    def sheet(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Image.Image | None:
        """Nothing of a module without codes."""
        if not isinstance(pl_module, DrawsFromCodes):
            return None
        images = validation_pictures(trainer.datamodule, self.pictures).to(pl_module.device)
        pictures = self.draw(pl_module.pdae(), images)
        return contact_sheet(images, beneath=as_bytes(pictures), columns=self.pictures)

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
