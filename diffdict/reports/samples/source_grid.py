"""Pictures, each beside what a network draws that is told its vector."""

import pytorch_lightning as pl
import torch
from PIL import Image

from diffdict.errors import UserError
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.samples.sample_grid import SampleGrid

SPLITS = ("val", "test", "train")  # the first that has pictures


class SourceGrid(SampleGrid):
    """Every n steps a sheet: a row a source, first itself, then its samples."""

    def __init__(
        self,
        every_n_steps: int = 1000,
        pictures: int = 28,
        steps: int = 25,
        seed: int = 0,
        each: int = 7,
    ) -> None:
        """`pictures` samples in all, `each` of a source."""
        super().__init__(every_n_steps, pictures, steps, seed)
        if not 1 <= each <= pictures:
            raise UserError(
                f"callbacks.samples.each samples of a source are 1 to {pictures}, got {each}"
            )
        self.sources, self.each = pictures // each, each

    def sheet(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Image.Image:
        """Sources and their samples; all rows begin with the same noises' first ones."""
        data = trainer.datamodule
        split = next(name for name in SPLITS if len(data.split(name)))
        indices = list(range(min(self.sources, len(data.split(split)))))
        self.pictures = len(indices) * self.each
        vectors = data.vectors_of(split, indices).to(pl_module.device)
        repeats = pl_module.standardised(vectors).repeat_interleave(self.each, 0)
        samples = self.draw(pl_module.ema, pl_module.objective, pl_module.device, repeats).cpu()
        shown = torch.stack([data.picture(split, index) for index in indices])
        rows = torch.cat([shown[:, None], samples.float().unflatten(0, (-1, self.each))], dim=1)
        return contact_sheet(rows.flatten(0, 1), columns=self.each + 1)
