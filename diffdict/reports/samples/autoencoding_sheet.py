"""Pictures, what their codes draw of them again, and what the same codes draw of other noises."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict import files
from diffdict.backbones.autoencoders.autoencode import (
    check_drawn,
    draw_ancestral,
    draw_with_codes,
    infer_noise,
    start_noise,
)
from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.schedules import Respacing
from diffdict.errors import at_least
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.subjects import DrawsFromCodes


class AutoencodingSheet(pl.Callback):
    """After a test of codes `<folder>/autoencoding.png`: a row a picture, as published."""

    def __init__(
        self,
        folder: str,
        pictures: int | None = None,
        samples: int = 5,
        respacing: Respacing = "linspace50",
        ancestral: Respacing = "50",
        seed: int = 0,
    ) -> None:
        """`samples`: of each code by DDIM and as many by DDPM; `pictures`: four unless said.

        `respacing`: DDIM's steps, up and down; `ancestral`: DDPM's, "" for all of the chain.
        """
        at_least(1, "report.codes", pictures=pictures, samples=samples)
        self.folder, self.pictures, self.samples = Path(folder), pictures or 4, samples
        self.respacing, self.ancestral, self.seed = respacing, ancestral, seed
        self.images: list[Tensor] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From the first picture on."""
        self.images = []

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        """The first rank's first pictures."""
        if isinstance(pl_module, DrawsFromCodes) and trainer.is_global_zero:
            missing = self.pictures - len(self.images)
            self.images += [*batch["image"][: max(0, missing)].cpu()]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws them with the network as it is handed on."""
        if not isinstance(pl_module, DrawsFromCodes) or not self.images:
            return
        images = torch.stack(self.images).to(pl_module.device)
        sheet = autoencoding_sheet(
            pl_module.pdae(), images, self.samples, self.respacing, self.ancestral, self.seed
        )
        path = files.unused(self.folder / "autoencoding.png")
        files.writable_folder(path.parent)
        write_png(sheet, path)
        print(f"grid: {path}")


@torch.no_grad()
def autoencoding_sheet(
    net: Pdae,
    images: Float[Tensor, "n 3 size size"],
    samples: int = 5,
    respacing: Respacing = "linspace50",
    ancestral: Respacing = "50",
    seed: int = 0,
) -> Image.Image:
    """A row a picture: itself, from its own noise, and by DDIM and DDPM from other noises.

    All chains of a kind go in one batch.
    """
    codes = net.codes(images).float()
    by_noise = draw_with_codes(net, codes, infer_noise(net, images, codes, respacing), respacing)
    indices = range(len(images) * samples)
    each = codes.repeat_interleave(samples, 0)
    by_ddim = draw_with_codes(net, each, start_noise(net, seed, indices), respacing)
    by_ddpm = draw_ancestral(net, each, seed + 1, indices, ancestral)
    shown = [images[:, None], by_noise[:, None]]
    shown += [batch.unflatten(0, (len(images), samples)) for batch in (by_ddim, by_ddpm)]
    rows = check_drawn(torch.cat(shown, 1)).cpu()
    return contact_sheet(
        rows.flatten(0, 1), columns=rows.shape[1], captions=captions(samples) * len(images)
    )


def captions(samples: int) -> Sequence[str]:
    """What stands beneath the pictures of one row."""
    names = [f"{way} {number + 1}" for way in ("DDIM", "DDPM") for number in range(samples)]
    return ["picture", "own noise", *names]
