"""The Inception score (Salimans et al. 2016): how sure the classes are, and how many there are."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.metrics.base import ExactMetric

SPLIT = 5000  # pictures of a split, as published


class InceptionScore(ExactMetric):
    """exp E KL(p(y|x) ‖ p(y)), the mean over splits of 5,000 pictures; its states only sum."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, pictures: int, classes: int) -> None:
        """`pictures`: how many there are in all."""
        super().__init__()
        splits = -(-pictures // SPLIT)
        for name, shape in (("shares", (splits, classes)), ("purity", (splits,))):
            zero = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")
        count = torch.zeros(splits, dtype=torch.int64)
        self.add_state("counts", count, dist_reduce_fx="sum")

    def update(
        self, shares: Float[Tensor, "pictures classes"], indices: Int64[Tensor, " pictures"]
    ) -> None:
        """Of some pictures the probability of every class, and their numbers."""
        rows, split = shares.to(self.shares), indices.to(self.shares.device) // SPLIT
        self.shares.index_add_(0, split, rows)
        self.purity.index_add_(0, split, torch.xlogy(rows, rows).sum(1))
        self.counts.index_add_(0, split, torch.ones_like(split))

    def compute(self) -> float:
        """Of everything seen."""
        seen = self.counts > 0
        counts = self.counts[seen].double()
        mean = self.shares[seen] / counts[:, None]
        gain = self.purity[seen] / counts - torch.xlogy(mean, mean).sum(1)
        return float(gain.exp().mean())
