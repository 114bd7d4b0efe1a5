"""How representations lie on the sphere: alignment and uniformity (Wang & Isola 2020)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric

CHUNK = 1024  # rows whose distances to all others are in memory at once


def alignment(
    first: Float[Tensor, "rows dim"], second: Float[Tensor, "rows dim"], alpha: int | float = 2
) -> Float[Tensor, ""]:
    """The mean distance, to the power alpha, of two views of each row: 0 where they agree."""
    if first.shape != second.shape or not len(first):
        raise UserError(
            "Alignment compares two views of the same rows, got "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    return (first.double() - second.double()).norm(dim=1).pow(alpha).mean()


def uniformity(rows: Float[Tensor, "rows dim"], t: int | float = 2) -> Float[Tensor, ""]:
    """The logarithm of the mean of exp(-t · distance²) over all pairs: the lower, the more even."""
    if len(rows) < 2:
        raise UserError(f"Uniformity is of the pairs of 2 rows or more, got {len(rows)}")
    rows, number = rows.double(), len(rows)
    sums = []
    for start in range(0, number - 1, CHUNK):
        some, rest = rows[start : start + CHUNK], rows[start:]
        potential = -t * torch.cdist(some, rest, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        each = torch.ones_like(potential, dtype=torch.bool).triu(1)  # every pair once
        sums.append(potential[each].logsumexp(0))
    pairs = torch.tensor(number * (number - 1) / 2, dtype=torch.float64, device=rows.device)
    return torch.stack(sums).logsumexp(0) - pairs.log()


class SphereFigures(NamedTuple):
    """Of two views of some pictures."""

    alignment: float
    uniformity: float  # the mean of both views'


class SphereGeometry(ExactMetric):
    """Keeps both views of every picture, so that groups are of pictures that follow each other.

    A group's uniformity is a logarithm of its pairs' mean: figures of other groups do not compare.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, group: int | None = 512, alpha: int | float = 2, t: int | float = 2) -> None:
        """`group`: rows that uniformity is measured in, the mean of groups counts; None: all."""
        super().__init__()
        self.group, self.alpha, self.t = group, alpha, t
        for name in ("first", "second", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        first: Float[Tensor, "rows dim"],
        second: Float[Tensor, "rows dim"],
        index: Int64[Tensor, " rows"],
    ) -> None:
        """Both views of some pictures, and the pictures' numbers."""
        self.first.append(first.float().cpu())
        self.second.append(second.float().cpu())
        self.index.append(index.cpu())

    def compute(self) -> SphereFigures:
        """Of everything seen, in the order of the pictures."""
        order = dim_zero_cat(self.index).argsort()
        views = [dim_zero_cat(view)[order] for view in (self.first, self.second)]
        apart = alignment(*views, self.alpha)
        each = [grouped_uniformity(view, self.group, self.t) for view in views]
        return SphereFigures(float(apart), float(sum(each) / 2))


def grouped_uniformity(
    rows: Float[Tensor, "rows dim"], group: int | None = None, t: int | float = 2
) -> Float[Tensor, ""]:
    """The mean of the groups' uniformity, each weighed by its rows; a last single row is left out.

    With groups of 512 as published for DDAE.
    """
    groups = [rows] if group is None else [part for part in rows.split(group) if len(part) > 1]
    if not groups:
        return uniformity(rows, t)
    weights = torch.tensor([len(part) for part in groups], dtype=torch.float64)
    each = torch.stack([uniformity(part, t).cpu() for part in groups])
    return (each * weights).sum() / weights.sum()
