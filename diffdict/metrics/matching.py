"""Which latents of two dictionaries are the same: by the correlation of codes at the same places.

Cosines of rows would say how the dictionaries began, where both began from one seed.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric
from diffdict.metrics.concepts.matching import match_rows


class MatchedLatents(NamedTuple):
    """Each latent's partner, one to one, and how their codes correlate."""

    partners: Int64[Tensor, " latents"]  # -1: none is left for it
    correlations: Float64[Tensor, " latents"]  # nan without a partner, or where one never varies

    @property
    def mean(self) -> float:
        """Over the latents that have a figure."""
        return float(self.correlations.nanmean())


class CodeCorrelation(ExactMetric):
    """Sums of two dictionaries' codes at the same tokens, in float64; states only sum."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, first: int, second: int) -> None:
        """How many latents each dictionary has."""
        super().__init__()
        shapes = {"sums_first": (first,), "squares_first": (first,), "sums_second": (second,)}
        shapes |= {"squares_second": (second,), "products": (first, second)}
        for name, shape in shapes.items():
            zero = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(
        self, first: Float[Tensor, "tokens first"], second: Float[Tensor, "tokens second"]
    ) -> None:
        """Codes of the same tokens."""
        first, second = first.double(), second.double()
        self.sums_first += first.sum(0)
        self.squares_first += first.square().sum(0)
        self.sums_second += second.sum(0)
        self.squares_second += second.square().sum(0)
        self.products += first.T @ second
        self.tokens += len(first)

    def compute(self) -> Float64[Tensor, "first second"]:
        """Pearson's correlation of every pair; nan where a code never varies."""
        if self.tokens < 2:
            raise UserError("A correlation is over two tokens or more")
        number = self.tokens.double()
        shared = self.products - self.sums_first[:, None] * self.sums_second / number
        spreads = [
            (squares - sums.square() / number).clamp(min=0)
            for sums, squares in (
                (self.sums_first, self.squares_first),
                (self.sums_second, self.squares_second),
            )
        ]
        length = (spreads[0][:, None] * spreads[1]).sqrt()
        return shared / length.masked_fill(length <= 0, torch.nan)


def matched_latents(correlations: Float64[Tensor, "first second"]) -> MatchedLatents:
    """The one-to-one matching with the largest sum of correlations."""
    scores = correlations.cpu().nan_to_num(nan=-1)
    partners = torch.from_numpy(match_rows(scores.numpy()))
    there = partners >= 0
    values = torch.full((len(partners),), torch.nan, dtype=torch.float64)
    values[there] = correlations.cpu()[there.nonzero()[:, 0], partners[there]]
    return MatchedLatents(partners, values)
