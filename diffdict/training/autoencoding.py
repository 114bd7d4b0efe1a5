"""How well a code draws its picture again: SSIM and MSE, beside what noise and code each give."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from diffdict.backbones.autoencode import (
    check_drawn,
    draw_with_codes,
    infer_noise,
    start_noise,
)
from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.schedules import Respacing
from diffdict.errors import at_least
from diffdict.metrics.similarity import mse, ssim

WAYS = ("inferred", "other", "without")  # noise of the picture; another; that one without a code


class Autoencoding:
    """Of the first so many pictures of the test; 0 draws none."""

    def __init__(
        self,
        pictures: int = 8,
        inversion: Respacing = "linspace50",
        sampling: Respacing = "linspace50",
        seed: int = 0,
    ) -> None:
        """`inversion`, `sampling`: the steps up to the noise and down; linspace1000, linspace100
        as published."""
        at_least(0, "model.autoencode", pictures=pictures)
        self.pictures, self.inversion, self.sampling = pictures, inversion, sampling
        self.seed, self.sums = seed, torch.zeros(3, 5, dtype=torch.float64)

    def reset(self) -> None:
        """From zero."""
        self.sums = torch.zeros(3, 5, dtype=torch.float64)

    @torch.no_grad()
    def add(
        self,
        net: Pdae,
        images: Float[Tensor, "batch 3 size size"],
        indices: Int[Tensor, " batch"],
    ) -> None:
        """Those of the batch that are among the first; a picture's noise hangs on its index."""
        among = indices < self.pictures
        if not bool(among.any()):
            return
        images, indices = images[among], indices[among].tolist()
        codes = net.codes(images).float()
        noise = start_noise(net, self.seed, indices)
        inferred = infer_noise(net, images, codes, self.inversion)
        ways = ((codes, inferred), (codes, noise), (None, noise))
        for row, (told, start) in enumerate(ways):
            drawn = check_drawn(draw_with_codes(net, told, start, self.sampling))
            pair = (images + 1) / 2, (drawn.clamp(-1, 1) + 1) / 2
            for column, values in ((1, ssim(*pair)), (3, mse(*pair))):
                values = values.double().cpu()
                self.sums[row, column] += values.sum()
                self.sums[row, column + 1] += values.square().sum()
            self.sums[row, 0] += len(images)

    def rows(
        self, reduce: Callable[[Float64[Tensor, "3 5"]], Tensor]
    ) -> list[dict[str, str | int | float]]:
        """A row a way: means with their standard errors, over all ranks."""
        rows = []
        for way, (count, *moments) in zip(WAYS, reduce(self.sums).tolist(), strict=True):
            if not count:
                continue
            row: dict[str, str | int | float] = {"noise": way, "pictures": int(count)}
            for name, total, squares in (("ssim", *moments[:2]), ("mse", *moments[2:])):
                mean = total / count
                variance = max(0.0, squares / count - mean**2) * count / max(1, count - 1)
                row |= {name: mean, f"{name}_error": (variance / count) ** 0.5}
            rows.append(row)
        return rows
