"""The few features that a class is told by best, chosen one after the other in closed form.

Each step takes the feature that lowers the squared error most beside those already taken. That is
a Cholesky factorisation whose pivots the class chooses, so the tenth costs no more than the first
(orthogonal least squares, Chen, Billings and Luo 1989).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from diffdict.metrics.probes import Sums

REPEATED = 1e-9  # of a feature's variance left beside those taken: below, it says nothing new


class FewFeatures(NamedTuple):
    """Each class's features, the best first, and read-outs of the first 1, 2, … of them."""

    features: Int64[Tensor, "classes most"]
    weight: Float32[Tensor, "sizes classes most"]  # 0 beyond a size
    bias: Float32[Tensor, "sizes classes"]

    def scores(
        self, tokens: Float32[Tensor, "tokens channels"]
    ) -> Float32[Tensor, "sizes classes tokens"]:
        """Least squares onto 1 inside a class and 0 outside it."""
        values = tokens.T[self.features]  # [classes, most, tokens]
        return torch.einsum("scm,cmt->sct", self.weight, values) + self.bias[..., None]


def select_forward(sums: Sums, sizes: Sequence[int]) -> FewFeatures:
    """Of each class the features for the largest size; their first ones serve the smaller."""
    count, most = sums.second[-1, -1], max(sizes)
    mean = sums.second[-1, :-1] / count
    covariance = sums.second[:-1, :-1] / count - mean[:, None] * mean
    share = sums.cross[-1] / count
    target = (sums.cross[:-1] / count - mean[:, None] * share).T.contiguous()  # [classes, features]
    variance = covariance.diagonal().clamp(min=0)
    left = variance.repeat(len(target), 1)
    classes = torch.arange(len(target), device=target.device)
    factor = target.new_zeros(len(target), most, len(mean))
    steps = target.new_zeros(len(target), most)
    features = torch.zeros(len(target), most, dtype=torch.long, device=target.device)
    for step in range(most):
        unseen = left > REPEATED * variance
        gain = torch.where(unseen, target.square() / left.clamp(min=1e-300), -1.0)
        best, at = gain.max(1)
        root = left[classes, at].clamp(min=1e-300).sqrt()
        shared = torch.einsum("csf,cs->cf", factor, factor[classes, :, at])
        column = (covariance[at] - shared) / root[:, None] * (best >= 0)[:, None]
        steps[:, step] = target[classes, at] / root * (best >= 0)
        factor[:, step], features[:, step] = column, at
        target = target - column * steps[:, step, None]
        left = left - column.square()
    weight = torch.stack([_weights(factor, features, steps, size) for size in sizes])
    bias = share - (weight * mean[features]).sum(-1)
    return FewFeatures(features, weight.float(), bias.float())


def _weights(
    factor: Float64[Tensor, "classes most features"],
    features: Int64[Tensor, "classes most"],
    steps: Float64[Tensor, "classes most"],
    size: int,
) -> Float64[Tensor, "classes most"]:
    """Solves Lᵀ w = z for the first features; those that said nothing new weigh nothing."""
    at = features[:, None].expand(-1, features.shape[1], -1)
    lower = factor.gather(2, at).mT.tril()  # [classes, feature, step]
    nothing = lower.diagonal(dim1=1, dim2=2) == 0
    lower = lower + torch.diag_embed(nothing.to(lower.dtype))
    within = torch.arange(steps.shape[1], device=steps.device) < size
    goal = (steps * within)[..., None]
    small = torch.where(within[:, None] & within, lower, torch.eye(len(within)).to(lower))
    return torch.linalg.solve_triangular(small.mT, goal, upper=True)[..., 0]
