"""Flow matching (Lipman et al. 2023; Esser et al. 2024): a picture on a straight line to noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from diffdict.diffusion.schedules import gather


@dataclass(frozen=True)
class Flow:
    """x_t = (1 − sigma) · picture + sigma · noise; timestep t is sigma = t / steps.

    A scheduler's shift says at which of them samples stop, not what they mean.
    """

    steps: int = 1000
    # a pipeline's scheduler, ready for so many steps on x of this shape
    scheduler: Callable[[int, Sequence[int]], object] | None = field(default=None, repr=False)

    @property
    def timesteps(self) -> Int64[Tensor, " steps"]:
        """Thousandths of noise, as the network is told them."""
        return torch.arange(1, self.steps + 1)

    @property
    def sigmas(self) -> Float64[Tensor, " steps"]:
        """The share of noise."""
        return self.timesteps.double() / self.steps

    @property
    def noise_levels(self) -> Float64[Tensor, " steps"]:
        """The noise's deviation for a picture of size 1; infinite where there is noise alone."""
        return self.sigmas / (1 - self.sigmas)

    def noised(
        self,
        images: Float[Tensor, "batch *shape"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, "#batch *shape"],
    ) -> Float[Tensor, "batch *shape"]:
        """The pictures at positions t."""
        sigma = gather(self.sigmas, t, images)
        return (sigma * noise + (1 - sigma) * images).to(images.dtype)

    def start(self, noise: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Pure noise."""
        return noise
