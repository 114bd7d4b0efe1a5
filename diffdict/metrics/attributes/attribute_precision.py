"""Average precision of attributes, each over the pictures of which it is known."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from diffdict.metrics.accuracy import average_precision
from diffdict.metrics.base import ExactMetric


class AttributeFigure(NamedTuple):
    """One attribute on some pictures."""

    precision: float  # NaN: no picture shows it, or all do
    pictures: int  # of which it is known
    share: float  # of them that show it: what chance reaches


class AttributePrecision(ExactMetric):
    """Keeps every score: the order of all pictures is not the sum of parts of it."""

    full_state_update = False
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(
        self,
        scores: Float[Tensor, "pictures attributes"],
        truth: Float[Tensor, "pictures attributes"],
    ) -> None:
        """`truth` is 0, 1, or NaN where it is unknown."""
        self.scores.append(scores.detach().float().cpu())
        self.truth.append(truth.float().cpu())

    def compute(self) -> list[AttributeFigure]:
        """Of everything seen, an attribute each."""
        scores, truth = dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.truth).cpu()
        figures = []
        for column in range(truth.shape[1]):
            known = ~truth[:, column].isnan()
            shows = truth[known, column] > 0
            count, share = int(known.sum()), float(shares_of(shows))
            precision = torch.nan
            if 0 < share < 1:
                value = average_precision(scores[known, column][:, None, None], shows[:, None])
                precision = float(value)
            figures.append(AttributeFigure(precision, count, share))
        return figures


def shares_of(shows: Tensor) -> float:
    """The share of pictures that show it; of none NaN."""
    return float(shows.float().mean()) if len(shows) else torch.nan
