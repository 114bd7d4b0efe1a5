"""Draws timesteps as often as their losses are large (Nichol and Dhariwal 2021, section 3.3)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from diffdict.diffusion.process import Process
from diffdict.diffusion.schedules import Schedule
from diffdict.errors import UserError

UNIFORM, SECOND_MOMENT = "uniform", "loss_second_moment"
WORDS = (UNIFORM, SECOND_MOMENT)
HISTORY = 10  # losses that are remembered of a timestep
SHARE = 0.001  # of the draws that stay uniform


class WeightedTimesteps(NamedTuple):
    """Positions of the chain, and what their losses count so that the mean stays what it was."""

    t: Int[Tensor, " batch"]
    weights: Float[Tensor, " batch"]


class LossSecondMoment(nn.Module):
    """p(t) ∝ √E[L²] of the last losses at t; uniform until every timestep has as many.

    A loss counts 1 / (T p(t)), as published. What is remembered is part of a checkpoint.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(steps, HISTORY, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(steps, dtype=torch.int64))

    @property
    def probabilities(self) -> Float64[Tensor, " steps"]:
        """Of every timestep of the chain."""
        steps = len(self.counts)
        uniform = torch.full_like(self.losses[:, 0], 1 / steps)
        if not bool((self.counts == HISTORY).all()):
            return uniform
        moments = self.losses.square().mean(1).sqrt()
        return (1 - SHARE) * moments / moments.sum() + SHARE * uniform

    def draw(self, shares: Float[Tensor, " batch"]) -> WeightedTimesteps:
        """For each share of [0, 1) the timestep below which that much of the probability lies."""
        probabilities = self.probabilities
        ends = probabilities.cumsum(0)
        t = torch.searchsorted(ends, shares.to(ends), right=True).clamp(max=len(ends) - 1)
        return WeightedTimesteps(t, (1 / (len(ends) * probabilities[t])).float())

    def update(self, t: Int[Tensor, " n"], losses: Float[Tensor, " n"]) -> None:
        """Remembers these, in their order; the oldest of a timestep are forgotten."""
        for step, loss in zip(t.tolist(), losses.double(), strict=True):
            count = int(self.counts[step])
            if count == HISTORY:
                self.losses[step] = self.losses[step].roll(-1)
            self.losses[step, min(count, HISTORY - 1)] = loss
            self.counts[step] = min(count + 1, HISTORY)


def make_timestep_weights(word: str, process: Process) -> LossSecondMoment | None:
    """What draws timesteps; None draws all alike."""
    if word not in WORDS:
        raise UserError(f"model.timesteps is {' or '.join(WORDS)}, got {word!r}")
    if word == UNIFORM:
        return None
    if not isinstance(process, Schedule):
        raise UserError(
            f"model.timesteps={word} weighs the timesteps of a chain, and this network has noise "
            f"levels: model.timesteps={UNIFORM}"
        )
    return LossSecondMoment(process.steps)
