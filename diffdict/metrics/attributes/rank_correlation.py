"""How alike two orders are: Spearman's correlation of ranks, ties in the middle of their places."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor


def spearman(first: Sequence, second: Sequence) -> float:
    """From -1 to 1 over pairs of which both are numbers; nan below three, or without a spread."""
    values = torch.tensor([list(first), list(second)], dtype=torch.float64)
    values = values[:, ~values.isnan().any(0)]
    if values.shape[1] < 3:
        return torch.nan
    ranks = torch.stack([ranks_of(row) for row in values])
    ranks -= ranks.mean(1, keepdim=True)
    length = ranks.norm(dim=1).prod()
    return float(ranks[0] @ ranks[1] / length) if length > 0 else torch.nan


def ranks_of(values: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Places in ascending order from 1; equal values share the mean of theirs."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]
