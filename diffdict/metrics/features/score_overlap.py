"""IoU of a class with the pixels whose score lies above a threshold, at many thresholds at once."""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torchmetrics import Metric

LOWEST, HIGHEST, BINS = -0.25, 1.25, 300  # of scores that aim at 0 and 1


class ScoreOverlap(Metric):
    """Counts scores inside and outside a class, by score; states only add up, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, rows: int, classes: int) -> None:
        """Of so many scores of each class."""
        super().__init__()
        for name in ("inside", "everywhere"):
            zero = torch.zeros(rows, classes, BINS, dtype=torch.int64)
            self.add_state(name, zero, dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, scores: Float[Tensor, "rows classes pixels"], truth: Bool[Tensor, "classes pixels"]
    ) -> None:
        """Adds one picture's pixels; those that are ignored are not among them."""
        rows, classes, _ = scores.shape
        bins = ((scores - LOWEST) * (BINS / (HIGHEST - LOWEST))).long().clamp_(0, BINS - 1)
        line = torch.arange(rows * classes, device=scores.device).view(rows, classes, 1)
        bins += line * BINS
        length = rows * classes * BINS
        self.everywhere += torch.bincount(bins.flatten(), minlength=length).view_as(self.everywhere)
        inside = bins[truth.expand_as(bins)]
        self.inside += torch.bincount(inside, minlength=length).view_as(self.inside)
        self.pixels += truth.sum(1)

    def compute(self) -> Float64[Tensor, "rows classes bins"]:
        """IoU with what scores at least the lower edge of each bin; nan for a class not seen."""
        above = _from_the_top(self.everywhere)
        both = _from_the_top(self.inside)
        union = above + self.pixels[:, None] - both
        iou = both / union.clamp(min=1).double()
        return iou.masked_fill(self.pixels[:, None] == 0, torch.nan)


def threshold_of(bins: int) -> float:
    """The lower edge of a bin."""
    return LOWEST + bins * (HIGHEST - LOWEST) / BINS


def _from_the_top(counts: Int64[Tensor, "rows classes bins"]) -> Int64[Tensor, "rows classes bins"]:
    return counts.flip(-1).cumsum(-1).flip(-1)
