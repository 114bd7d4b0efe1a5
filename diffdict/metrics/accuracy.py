"""How well classes of whole pictures are told: accuracy, and average precision of each class.

Several classifiers are measured at once, those of a sweep say: each is a head of the metric.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric
from diffdict.seeds import resamples

DRAWS = 40  # of pictures, for standard errors


class PictureFigures(NamedTuple):
    """What several classifiers are worth on the same pictures."""

    mean: list[float]  # of each: accuracy, or the mean average precision
    error: list[float]  # its standard error: what other pictures would change
    each: list[list[float]]  # of each and each class: recall or average precision; nan: no picture
    pictures: list[int]  # that show the class
    chance: float  # what a constant answer reaches
    counted: list[bool]  # which classes are in the mean


class Accuracy(ExactMetric):
    """Counts what the largest score says of pictures that have one class each."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, classes: int, heads: int = 1) -> None:
        super().__init__()
        zero = torch.zeros(heads, classes, dtype=torch.int64)
        self.add_state("right", zero, dist_reduce_fx="sum")
        self.add_state("pictures", zero[0].clone(), dist_reduce_fx="sum")

    def update(
        self,
        scores: Float[Tensor, "pictures heads classes"],
        truth: Float[Tensor, "pictures classes"],
    ) -> None:
        """`truth` is one-hot; all zero of a picture whose class is unknown."""
        truth = truth.to(self.right.device).long()
        label = truth.argmax(1)
        hits = (scores.argmax(2).to(label.device) == label[:, None]).long()
        self.right += hits.T @ truth
        self.pictures += truth.sum(0)

    def compute(self) -> PictureFigures:
        """Of everything seen."""
        total = self.pictures.sum()
        if not total:
            raise UserError(
                "No picture with a known class was seen, so nothing can be measured: the labels "
                "hold nothing but the ignored one"
            )
        mean = self.right.sum(1).double() / total
        error = (mean * (1 - mean) / total).sqrt()
        each = self.right.double() / self.pictures
        return PictureFigures(
            mean.tolist(),
            error.tolist(),
            each.tolist(),
            self.pictures.tolist(),
            float(self.pictures.max().double() / total),
            [True] * len(self.pictures),
        )


class AveragePrecision(ExactMetric):
    """Ranks the pictures by each class's score; of a picture several classes may be true.

    Keeps every score: the order of all pictures is not the sum of parts of it. The mean is over
    the classes that `prevalence`, the smallest and the largest, shares of the pictures show.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(
        self, classes: int, heads: int = 1, prevalence: Sequence[float | int] = (0, 1)
    ) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")
        self.prevalence = prevalence
        self.counted: Bool[Tensor, " classes"] | None = None

    def count_only(self, classes: Bool[Tensor, " classes"]) -> None:
        """From now on these classes are in the mean, whatever these pictures show."""
        self.counted = classes.cpu()

    def update(
        self,
        scores: Float[Tensor, "pictures heads classes"],
        truth: Float[Tensor, "pictures classes"],
    ) -> None:
        """`truth` is 1 for the classes that a picture shows."""
        self.scores.append(scores.float().cpu())
        self.truth.append(truth.bool().cpu())

    def compute(self) -> PictureFigures:
        """Of everything seen."""
        scores, truth = dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.truth).cpu()
        each = average_precision(scores, truth)
        pictures = truth.sum(0)
        counted = self.counted
        if counted is None:
            counted = common_classes(pictures, len(truth), self.prevalence)
        if not (pictures[counted] > 0).any():
            raise UserError(
                f"None of {len(truth)} pictures shows a class that counts, so no average precision "
                "can be measured: give more pictures, or a wider model.prevalence"
            )
        shares = (pictures.double() / len(truth))[counted & (pictures > 0)]
        among, shown = scores[..., counted], truth[:, counted]
        again = [
            average_precision(among[some], shown[some]).nanmean(1)
            for some in resamples(len(truth), DRAWS)
        ]
        return PictureFigures(
            each[:, counted].nanmean(1).tolist(),
            torch.stack(again).std(0).tolist(),
            each.tolist(),
            pictures.tolist(),
            float(shares.mean()),
            counted.tolist(),
        )


def common_classes(
    shown: Shaped[Tensor, " classes"], pictures: float | int, prevalence: Sequence[float | int]
) -> Bool[Tensor, " classes"]:
    """Those that between the one and the other share of the pictures show."""
    share = shown.double() / pictures
    return (share >= prevalence[0]) & (share <= prevalence[1])


def check_prevalence(prevalence: Sequence[float | int]) -> None:
    """Two shares of the pictures, the smaller first."""
    if len(prevalence) != 2 or not 0 <= prevalence[0] < prevalence[1] <= 1:
        raise UserError(
            "model.prevalence is the smallest and the largest share of the pictures, between 0 and "
            f"1, got {list(prevalence)}: model.prevalence=[0.05,0.95]"
        )


def average_precision(
    scores: Float[Tensor, "pictures heads classes"], truth: Bool[Tensor, "pictures classes"]
) -> Float64[Tensor, "heads classes"]:
    """The mean, over the pictures that show a class, of the precision at each one's score.

    Equal scores are one step, in whatever order they stand; nan where no picture shows the class.
    """
    ranked, order = scores.permute(1, 2, 0).contiguous().sort(-1, descending=True)
    shows = truth.T.expand_as(ranked).gather(-1, order).double()
    down = -ranked
    above = torch.searchsorted(down, down, right=True)  # pictures with this score or a larger one
    precision = shows.cumsum(-1).gather(-1, above - 1) / above
    return (precision * shows).sum(-1) / shows.sum(-1)
