"""The contract of noising: the timesteps of a process, and what each does to a picture."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor


@runtime_checkable
class Process(Protocol):
    """What a denoising network was trained to undo: a chain of steps, or a ladder of levels."""

    @property
    def steps(self) -> int:
        """How many there are; their positions are counted from 0, the least noisy."""

    @property
    def timesteps(self) -> Int64[Tensor, " steps"]:
        """What each position is called, to a network and by a user."""

    @property
    def noise_levels(self) -> Float64[Tensor, " steps"]:
        """At each position the noise's deviation for a signal of size 1: what all share."""

    def noised(
        self,
        images: Float[Tensor, "batch *shape"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, "#batch *shape"],
    ) -> Float[Tensor, "batch *shape"]:
        """The pictures as they are at positions t, with this standard normal noise."""

    def start(self, noise: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Where sampling begins: what is left of a picture above the last step."""


def noised_at(
    process: Process,
    images: Float[Tensor, "batch *shape"],
    timestep: int | Int[Tensor, " batch"],
    noise: Float[Tensor, "..."] | None,
) -> tuple[Float[Tensor, "batch *shape"], Int[Tensor, " batch"]]:
    """The pictures at one timestep, or at one each, once a picture; fresh noise for None."""
    if isinstance(timestep, Tensor):
        t = timestep.to(images.device)
    else:
        t = torch.full((len(images),), timestep, dtype=torch.int64, device=images.device)
    noise = torch.randn_like(images) if noise is None else noise.to(images).expand_as(images)
    return process.noised(images, t - int(process.timesteps[0]), noise), t
