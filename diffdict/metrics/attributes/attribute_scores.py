"""How well attributes of pictures are told: average precision, or Pearson's r of numbers.

What is unknown of a picture (NaN) counts nowhere. Several read-outs are measured at once.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.utilities.data import dim_zero_cat

from diffdict.errors import UserError
from diffdict.metrics.accuracy import DRAWS, PictureFigures, average_precision
from diffdict.metrics.base import ExactMetric
from diffdict.seeds import resamples

CONSTANT = 1e-12  # variance as a share of the second moment: below, it is rounding alone


class AttributeScores(ExactMetric):
    """Ranks pictures by each binary attribute's score, and correlates numbers with theirs."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, binary: Sequence[bool], heads: int = 1) -> None:
        """`binary` says of each attribute whether it is 0 or 1; else it is a number."""
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")
        self.binary = torch.tensor(list(binary), dtype=torch.bool)
        self.counted: Bool[Tensor, " attributes"] | None = None

    def count_only(self, attributes: Bool[Tensor, " attributes"]) -> None:
        """From now on these attributes are in the mean, whatever these pictures show."""
        self.counted = attributes.cpu()

    def update(
        self,
        scores: Float[Tensor, "pictures heads attributes"],
        truth: Float[Tensor, "pictures attributes"],
    ) -> None:
        """`truth` is NaN where it is unknown."""
        self.scores.append(scores.detach().float().cpu())
        self.truth.append(truth.double().cpu())

    def compute(self) -> PictureFigures:
        """Of everything seen; the mean is over the attributes that these pictures can measure."""
        scores, truth = dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.truth).cpu()
        each = attribute_figures(scores, truth, self.binary)
        counted = measurable(truth, self.binary)
        if self.counted is not None:
            counted &= self.counted
        if not counted.any():
            raise UserError(
                f"None of the attributes can be measured on {len(truth)} pictures: of each all "
                "that is known is one value. Give more with dataset.test_pictures= and "
                "dataset.train_pictures="
            )
        errors = bootstrap_errors(scores[..., counted], truth[:, counted], self.binary[counted])
        chance = chances(truth, self.binary)[counted].mean()
        return PictureFigures(
            each[:, counted].mean(1).tolist(),
            errors.tolist(),
            each.tolist(),
            known_pictures(truth, self.binary).tolist(),
            float(chance),
            counted.tolist(),
        )

    def errors_of_numbers(self) -> Float64[Tensor, "heads attributes two"]:
        """The mean squared error of each number, and R², the share of its variance explained."""
        scores, truth = dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.truth).cpu()
        return squared_errors(scores, truth)


def attribute_losses(
    scores: Float[Tensor, "*heads batch attributes"],
    truth: Float[Tensor, "batch attributes"],
    binary: Bool[Tensor, " attributes"],
) -> Float[Tensor, "*heads"]:
    """Each head's mean over all that is known: binary cross-entropy, of numbers squared error."""
    known = ~truth.isnan()
    filled = truth.nan_to_num().to(scores.dtype).expand_as(scores)
    entropy = F.binary_cross_entropy_with_logits(scores, filled.clamp(0, 1), reduction="none")
    each = torch.where(binary, entropy, (scores - filled) ** 2)
    return (each * known).sum((-2, -1)) / known.sum().clamp(min=1)


def attribute_figures(
    scores: Float[Tensor, "pictures heads attributes"],
    truth: Float[Tensor, "pictures attributes"],
    binary: Bool[Tensor, " attributes"],
) -> Float64[Tensor, "heads attributes"]:
    """Average precision of binary ones, Pearson's r of numbers; nan where it cannot be told."""
    out = torch.full(scores.shape[1:], torch.nan, dtype=torch.float64)
    for columns in known_alike(truth):
        known = ~truth[:, columns[0]].isnan()
        if not known.any():
            continue
        rows, values = scores[known][..., columns], truth[known][:, columns]
        yes = binary[columns]
        if yes.any():
            out[:, columns[yes]] = average_precision(rows[..., yes], values[:, yes] > 0.5)
        if (~yes).any():
            out[:, columns[~yes]] = pearson(rows[..., ~yes], values[:, ~yes])
    return out


def known_alike(truth: Float[Tensor, "pictures attributes"]) -> list[Tensor]:
    """The attributes in groups that are known of the same pictures."""
    patterns, group = truth.isnan().T.unique(dim=0, return_inverse=True)
    return [(group == number).nonzero()[:, 0] for number in range(len(patterns))]


def pearson(
    scores: Float[Tensor, "pictures heads attributes"],
    values: Float[Tensor, "pictures attributes"],
) -> Float64[Tensor, "heads attributes"]:
    """The correlation of each score with its number; 0 of a constant score."""
    x, y = scores.double(), values.double()[:, None]
    x, y = x - x.mean(0), y - y.mean(0)
    size = (x.square().sum(0) * y.square().sum(0)).sqrt()
    r = (x * y).sum(0) / size.clamp(min=1e-300)
    return torch.where(y.square().sum(0) > 0, r, torch.nan)


class BestRidges(NamedTuple):
    """Of each attribute the ridge that held-out pictures choose, and its figure on them."""

    indices: Int64[Tensor, " attributes"]
    figures: Float64[Tensor, " attributes"]  # nan where they do not tell


def best_ridges(
    scores: Float[Tensor, "pictures ridges attributes"],
    truth: Float[Tensor, "pictures attributes"],
    binary: Bool[Tensor, " attributes"],
) -> BestRidges:
    """Ridges in rising order; of equally good ones the largest."""
    figures = attribute_figures(scores, truth, binary)
    best = figures.nan_to_num(-2).flip(0).max(0)
    return BestRidges(
        len(figures) - 1 - best.indices, best.values.where(best.values > -2, torch.nan)
    )


def squared_errors(
    scores: Float[Tensor, "pictures heads attributes"], truth: Float[Tensor, "pictures attributes"]
) -> Float64[Tensor, "heads attributes two"]:
    """Of each attribute its mean squared error, and R²."""
    known = ~truth.isnan()[:, None]
    y = truth.double()[:, None]
    error = (scores.double() - y).square().where(known, torch.nan).nanmean(0)
    around = (y - y.nanmean(0)).square().nanmean(0)
    return torch.stack([error, 1 - error / around], dim=-1)


def measurable(
    truth: Float[Tensor, "pictures attributes"], binary: Bool[Tensor, " attributes"]
) -> Bool[Tensor, " attributes"]:
    """The attributes of which these pictures know more than one value."""
    y = truth.double()
    count = (~y.isnan()).sum(0)
    mean, square = y.nanmean(0).nan_to_num(), y.square().nanmean(0).nan_to_num()
    varies = (square - mean.square()) > CONSTANT * square
    return (count > 1) & varies


def known_pictures(
    truth: Float[Tensor, "pictures attributes"], binary: Bool[Tensor, " attributes"]
) -> Tensor:
    """How many pictures show each binary attribute; of each number, of how many it is known."""
    return torch.where(binary, (truth == 1).sum(0), (~truth.isnan()).sum(0))


def chances(
    truth: Float[Tensor, "pictures attributes"], binary: Bool[Tensor, " attributes"]
) -> Float64[Tensor, " attributes"]:
    """What a score that knows nothing reaches: the share that shows it; of a number 0."""
    return torch.where(binary, truth.double().nanmean(0), 0.0)


def bootstrap_errors(
    scores: Float[Tensor, "pictures heads attributes"],
    truth: Float[Tensor, "pictures attributes"],
    binary: Bool[Tensor, " attributes"],
    draws: int = DRAWS,
) -> Float64[Tensor, " heads"]:
    """The spread of the mean figure over pictures drawn again."""
    means = [
        attribute_figures(scores[some], truth[some], binary).nanmean(1)
        for some in resamples(len(truth), draws)
    ]
    return torch.stack(means).std(0)


def say_left_out(names: Sequence[str], counted: Bool[Tensor, " attributes"], of: str) -> None:
    """Refuses attributes that no picture tells apart; says which are left out of the mean."""
    left = [name for name, counts in zip(names, counted.tolist(), strict=True) if not counts]
    few = f"{', '.join(left[:5])}{' …' if len(left) > 5 else ''}"
    if left and not counted.any():
        raise UserError(
            f"All that is known of {few} on the pictures {of} is one value, so no probe can learn "
            "it: give more with dataset.train_pictures=, or other attributes"
        )
    if left:
        warnings.warn(
            f"Left out, for the pictures {of} know one value of it alone, or none: {few}",
            stacklevel=2,
        )
