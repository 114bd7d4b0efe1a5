"""Whether a network still takes changed pictures for ones of its own: its loss on them, noised."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffdict.metrics.base import ExactMetric

UNIT = 2**30  # losses are summed as integers, so that no order of pictures changes a sum


class DamageFigures(NamedTuple):
    """Mean losses by timestep, of pictures without and with a change."""

    off: Float64[Tensor, " timesteps"]
    on: Float64[Tensor, " timesteps"]

    @property
    def share(self) -> float:
        """By which share the loss has risen, a mean over timesteps."""
        return float((self.on / self.off - 1).mean())


class Damage(ExactMetric):
    """Losses of the same pictures off and on, noised again alike to several timesteps."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        for name in ("off", "on"):
            zero = torch.zeros(timesteps, dtype=torch.int64)
            self.add_state(name, zero, dist_reduce_fx="sum")
        self.add_state("pictures", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Sums of nothing are an answer: a rank that saw no picture computes with the others."""
        return True

    @torch.no_grad()
    def update(
        self, off: Float[Tensor, "timesteps pictures"], on: Float[Tensor, "timesteps pictures"]
    ) -> None:
        """The loss of each picture at each timestep."""
        for name, losses in (("off", off), ("on", on)):
            state = getattr(self, name)
            state += (losses.double() * UNIT).round().long().sum(1).to(state.device)
        self.pictures += off.shape[1]

    def compute(self) -> DamageFigures:
        """Means over everything seen; nan of nothing, which a rank by itself may have seen."""
        return DamageFigures(
            *(each.double() / UNIT / self.pictures for each in (self.off, self.on))
        )
