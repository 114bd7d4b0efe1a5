"""EDM's mathematics (Karras et al. 2022): noise levels, preconditioning, the weight of its loss.

torch.compile traces what a network's pass needs, which a run-time type checker would interrupt:
no_type_check.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from diffdict.diffusion.schedules import gather
from diffdict.errors import UserError


@dataclass(frozen=True)
class Levels:
    """A ladder of noise levels: a picture at level sigma is the picture + sigma · noise."""

    steps: int = 18
    sigma_min: int | float = 0.002
    sigma_max: int | float = 80.0
    rho: int | float = 7.0
    sigma_data: int | float = 0.5  # deviation of the pictures themselves

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise UserError(f"A ladder of noise levels has 2 steps or more, got {self.steps}")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise UserError(
                f"0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}: "
                "0.002 and 80 are usual"
            )
        if not self.rho > 0:
            raise UserError(f"rho must be positive, got {self.rho}: 7 is usual")
        if not self.sigma_data > 0:
            raise UserError(f"sigma_data must be positive, got {self.sigma_data}: 0.5 is usual")

    @property
    def timesteps(self) -> Int64[Tensor, " steps"]:
        """What each level is called: 1 is the smallest."""
        return torch.arange(1, self.steps + 1)

    @property
    def noise_levels(self) -> Float64[Tensor, " steps"]:
        """From sigma_min up to sigma_max, evenly in their rho-th roots (eq. 5)."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.linspace(low, high, self.steps, dtype=torch.float64) ** self.rho

    def noised(
        self,
        images: Float[Tensor, "batch *shape"],
        t: Int[Tensor, " batch"] | Float[Tensor, " batch"],
        noise: Float[Tensor, "#batch *shape"],
    ) -> Float[Tensor, "batch *shape"]:
        """The pictures at positions t of the ladder, or where t is no integer at sigma = t."""
        if t.is_floating_point():
            sigma = broadcast(t, images)
        else:
            sigma = gather(self.noise_levels, t, images)
        return (images + sigma * noise).to(images.dtype)

    def start(self, noise: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Noise of the largest level, beside which a picture is nothing."""
        return noise * self.sigma_max


@no_type_check
class Preconditioning(NamedTuple):
    """D(x; sigma) = skip · x + out · F(input · x; noise), of a network F (eq. 7)."""

    skip: Float[Tensor, "*shape"]
    out: Float[Tensor, "*shape"]
    input: Float[Tensor, "*shape"]
    noise: Float[Tensor, "*shape"]  # what the network is told of sigma


@no_type_check
def preconditioning(
    sigma: Float[Tensor, "*shape"], sigma_data: int | float = 0.5
) -> Preconditioning:
    """The factors that keep inputs, targets and errors at variance 1 (table 1)."""
    total = sigma**2 + sigma_data**2
    return Preconditioning(
        skip=sigma_data**2 / total,
        out=sigma * sigma_data / total.sqrt(),
        input=1 / total.sqrt(),
        noise=sigma.log() / 4,
    )


def loss_weight(
    sigma: Float[Tensor, "*shape"], sigma_data: int | float = 0.5
) -> Float[Tensor, "*shape"]:
    """1 / out²: every level's squared error of D weighs the same at the start (table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@no_type_check
def broadcast(
    sigma: Float[Tensor, " batch"], like: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *ones"]:
    """One value a picture, shaped to multiply pictures, in float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return sigma.to(dtype).reshape(-1, *[1] * (like.ndim - 1))
