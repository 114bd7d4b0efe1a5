"""How much of the variance of samples lies between their sources."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class VarianceShare(NamedTuple):
    """1: samples of a source are alike; 0, in the mean: they differ as those of others do."""

    whole: float  # of the sum over all dimensions
    each: Float[Tensor, " d"]  # NaN where nothing varies


def variance_share(
    vectors: Float[Tensor, "n d"], groups: Int[Tensor, " n"] | Sequence[int]
) -> VarianceShare | None:
    """The intraclass correlation of a one-way analysis of variance; None where it has none.

    That needs two groups and one of two vectors. Both variances are estimated without bias, so
    that the share of noise can fall below 0.
    """
    groups = torch.as_tensor(groups, device=vectors.device)
    _, group, counts = groups.unique(return_inverse=True, return_counts=True)
    number, kinds = len(vectors), len(counts)
    if kinds < 2 or number == kinds:
        return None
    vectors = vectors.double() - vectors.double().mean(0)
    sums = torch.zeros(kinds, vectors.shape[1], dtype=torch.float64, device=vectors.device)
    means = sums.index_add_(0, group, vectors) / counts[:, None]
    within = (vectors - means[group]).square().sum(0) / (number - kinds)
    across = (counts[:, None] * means.square()).sum(0) / (kinds - 1)
    size = (number - float(counts.double().square().sum()) / number) / (kinds - 1)
    between = (across - within) / size
    total = between + within
    return VarianceShare(float(between.sum() / total.sum()), between / total)
