"""The Fréchet distance of two sets of features (Heusel et al. 2017; of Inception's it is FID)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric

EPS = torch.finfo(torch.float64).eps
ROUNDED = 16  # times EPS: what products and eigenvalues of large matrices are rounded by
SEEN = 1e-7  # of the distance: no rounding may be larger


class Statistics(NamedTuple):
    """Mean and unbiased covariance of features."""

    mu: Float64[Tensor, " dim"]
    sigma: Float64[Tensor, "dim dim"]


class FeatureStatistics(ExactMetric):
    """Adds up features of pictures in float64; its states only sum, on any ranks and shards."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise UserError(f"dim, the width of the features, is 1 or more, got {dim}")
        zero = torch.zeros(dim, dim, dtype=torch.float64)
        self.add_state("number", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", zero[0].clone(), dist_reduce_fx="sum")
        self.add_state("second", zero, dist_reduce_fx="sum")

    def update(self, features: Float[Tensor, "pictures dim"]) -> None:
        """Some pictures' features, a row each."""
        rows = features.to(self.total)
        if rows.shape[1] != len(self.total):
            raise UserError(
                f"Features must be {len(self.total)} wide like those before, got {rows.shape[1]}: "
                "take one network and one block"
            )
        if not rows.isfinite().all():
            raise UserError(
                "Features must be finite, got NaN or infinity: `diffdict verify` says whether the "
                "network's weights are, and trainer.precision=32-true keeps large values"
            )
        self.number += len(rows)
        self.total += rows.sum(0)
        self.second += rows.T @ rows

    def compute(self) -> Statistics:
        """Of everything seen."""
        number = int(self.number)
        if number < 2:
            raise UserError(f"A covariance needs 2 pictures or more, got {number}: give more")
        mu = self.total / number
        return Statistics(mu, (self.second - self.total[:, None] * mu) / (number - 1))


def frechet_distance(
    mu1: Tensor | np.ndarray,
    sigma1: Tensor | np.ndarray,
    mu2: Tensor | np.ndarray,
    sigma2: Tensor | np.ndarray,
) -> Float64[Tensor, ""]:
    """|mu1 - mu2|² + tr sigma1 + tr sigma2 - 2 tr √(sigma1 sigma2), of means and covariances.

    With any root R Rᵀ = sigma1 the last trace is the sum of the square roots of the eigenvalues of
    Rᵀ sigma2 R, a symmetric matrix no larger than the rank of sigma1. Where their rounding could be
    seen in the distance it is the sum of the singular values of R1ᵀ R2, which takes twice as long:
    exact for singular covariances too, where a matrix root is not.
    """
    first, second = _checked("1", mu1, sigma1), _checked("2", mu2, sigma2)
    if first.mu.shape != second.mu.shape:
        raise UserError(
            f"mu1 and mu2 must be equally wide, got {len(first.mu)} and {len(second.mu)}: features "
            "of one network and one block compare"
        )
    second = Statistics(*(x.to(first.mu.device) for x in second))
    shift = (first.mu - second.mu).square().sum()
    apart = shift + first.sigma.trace() + second.sigma.trace()
    roots: list[Tensor] = []
    for sigma, other in ((first.sigma, second.sigma), (second.sigma, first.sigma)):
        roots.append(_root(sigma))  # the second may be thinner
        overlap, rounding = _overlap(roots[-1], other)
        if 2 * rounding <= SEEN * (apart - 2 * overlap):
            return apart - 2 * overlap
    overlap = torch.linalg.svdvals(roots[0].T @ roots[1]).sum()
    return (apart - 2 * overlap).clamp(min=0)


def _overlap(
    root: Float64[Tensor, "dim rank"], sigma: Float64[Tensor, "dim dim"]
) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
    """tr √(root rootᵀ sigma), and how far off rounding may have taken it.

    An eigenvalue is off by what the largest is rounded by; its root by that over twice the root.
    """
    values = torch.linalg.eigvalsh(root.T @ (sigma @ root)).clamp(min=0)
    if not len(values):  # nothing varies
        return values.sum(), values.sum()
    step, roots = ROUNDED * EPS * values[-1], values.sqrt()
    return roots.sum(), (step / (2 * roots).maximum(step.sqrt())).nan_to_num().sum()


def _root(sigma: Float64[Tensor, "dim dim"]) -> Float64[Tensor, "dim rank"]:
    """A matrix whose product with its own transpose is sigma: Cholesky's, where there is one."""
    factor, failed = torch.linalg.cholesky_ex(sigma)
    return _thin_root(sigma) if failed else factor


def _thin_root(sigma: Float64[Tensor, "dim dim"]) -> Float64[Tensor, "dim rank"]:
    """Of a singular matrix, as wide as its rank: Cholesky's with the largest pivot first.

    Where half the rows do not do (Higham 1990), by its eigenvectors.
    """
    left = sigma.diagonal().clone()
    least = ROUNDED * EPS * left.max().clamp(min=0)
    rows = sigma.new_zeros(len(sigma) // 2, len(sigma))
    for rank, row in enumerate(rows):
        pivot = int(left.argmax())
        if left[pivot] <= least:
            return rows[:rank].T
        done = rows[:rank]
        row.copy_((sigma[pivot] - done[:, pivot] @ done) / left[pivot].sqrt())
        left -= row.square()
    values, vectors = torch.linalg.eigh(sigma)
    kept = values > least
    return vectors[:, kept] * values[kept].sqrt()


def _checked(which: str, mu: Tensor | np.ndarray, sigma: Tensor | np.ndarray) -> Statistics:
    """A mean and its covariance in float64."""
    mu, sigma = torch.as_tensor(mu).double(), torch.as_tensor(sigma).double()
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise UserError(
            f"mu{which} must be a vector and sigma{which} square and as wide, got "
            f"{list(mu.shape)} and {list(sigma.shape)}"
        )
    if not (mu.isfinite().all() and sigma.isfinite().all()):
        raise UserError(f"mu{which} and sigma{which} must be finite, got NaN or infinity")
    return Statistics(mu, sigma)
