"""How much of a code's variance is the picture's, and how much the noise's that it was seen in."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric


class Reliability(ExactMetric):
    """The variance over places as a share of that and of the variance over draws of the noise.

    One-way analysis of variance (the intraclass correlation): sums of float64 over tokens.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, latents: int) -> None:
        super().__init__()
        for name in ("first", "second", "within"):
            zero = torch.zeros(latents, dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")
        for name in ("tokens", "weighted"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, codes: Float[Tensor, "draws tokens latents"]) -> None:
        """Codes of the same tokens under several draws of the noise."""
        draws = len(codes)
        if draws < 2:
            raise UserError(f"Reliability compares draws of the noise, got {draws}: draws=8")
        codes = codes.double()
        mean = codes.mean(0)
        self.first += mean.sum(0)
        self.second += mean.square().sum(0)
        self.within += (codes - mean).square().sum((0, 1)) / (draws - 1)
        self.tokens += codes.shape[1]
        self.weighted += codes.shape[1] / draws

    def compute(self) -> Float64[Tensor, " latents"]:
        """From 0 (noise alone) to 1 (the same in every noise); nan for a code that never varies."""
        tokens = self.tokens
        if tokens < 2:
            raise UserError("Reliability is a share of variances: two tokens or more are seen")
        noise = self.within / tokens
        # the mean of n draws still has an n-th of the noise's variance
        spread = (self.second - self.first.square() / tokens) / (tokens - 1)
        places = (spread - noise * self.weighted / tokens).clamp(min=0)
        total = places + noise
        return places / total.masked_fill(total <= 0, torch.nan)
