"""How well a code draws its picture again: SSIM, MSE, LPIPS; what noise and code each give."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from diffdict.backbones.autoencoders.autoencode import (
    check_drawn,
    draw_with_codes,
    infer_noise,
    start_noise,
)
from diffdict.backbones.imagenet.lpips import SMALLEST, open_lpips
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
        lpips: str | None = None,
    ) -> None:
        """`inversion`, `sampling`: the steps up to the noise and down; linspace1000, linspace100
        as published. `lpips`: torchvision's AlexNet; None: from the folder of weights, if there.
        """
        at_least(0, "model.autoencode", pictures=pictures)
        self.pictures, self.inversion, self.sampling = pictures, inversion, sampling
        self.seed, self.sums = seed, torch.zeros(3, 1, dtype=torch.float64)
        self.measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ssim": ssim, "mse": mse}
        self.lpips = open_lpips(lpips) if pictures else None
        if self.lpips is not None:  # of pictures in [-1, 1]
            self.measures["lpips"] = lambda a, b: self.lpips(2 * a - 1, 2 * b - 1)
        self.reset()

    def reset(self) -> None:
        """From zero."""
        self.sums = torch.zeros(3, 1 + 2 * len(self.measures), dtype=torch.float64)

    def leave_out_small(self, side: int) -> None:
        """Pictures that are too small for AlexNet have no LPIPS, on any rank."""
        if self.lpips is not None and side < SMALLEST:
            print(f"LPIPS is left out: pictures of {side}×{side} are too small for AlexNet")
            self.lpips = None
            del self.measures["lpips"]
            self.reset()

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
        if self.lpips is not None:
            self.lpips.to(images.device)
        codes = net.codes(images).float()
        noise = start_noise(net, self.seed, indices)
        inferred = infer_noise(net, images, codes, self.inversion)
        ways = ((codes, inferred), (codes, noise), (None, noise))
        for row, (condition, start) in enumerate(ways):
            samples = check_drawn(draw_with_codes(net, condition, start, self.sampling))
            pair = (images + 1) / 2, (samples.clamp(-1, 1) + 1) / 2
            for place, measure in enumerate(self.measures.values()):
                values = measure(*pair).double().cpu()
                self.sums[row, 1 + 2 * place] += values.sum()
                self.sums[row, 2 + 2 * place] += values.square().sum()
            self.sums[row, 0] += len(images)

    def rows(
        self, reduce: Callable[[Float64[Tensor, "3 moments"]], Tensor]
    ) -> list[dict[str, str | int | float]]:
        """A row a way: means with their standard errors, over all ranks."""
        rows = []
        for way, (count, *moments) in zip(WAYS, reduce(self.sums).tolist(), strict=True):
            if not count:
                continue
            row: dict[str, str | int | float] = {"noise": way, "pictures": int(count)}
            for place, name in enumerate(self.measures):
                total, squares = moments[2 * place : 2 * place + 2]
                mean = total / count
                variance = max(0.0, squares / count - mean**2) * count / max(1, count - 1)
                row |= {name: mean, f"{name}_error": (variance / count) ** 0.5}
            rows.append(row)
        return rows
