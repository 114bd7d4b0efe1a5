"""The kernel distance of two sets of features (Binkowski et al. 2018; of Inception's it is KID)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from diffdict.metrics.base import ExactMetric
from diffdict.seeds import permutation


class KernelDistance(NamedTuple):
    """The squared distance of two sets under the kernel, and how far it may be off."""

    value: float  # unbiased: two halves of one set are around 0, and may be below
    error: float  # its standard error: what other pictures would change


class ChosenRows(ExactMetric):
    """Keeps the features of `kept` of the pictures 0 … number-1, whoever sees them and when."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, number: int, kept: int) -> None:
        super().__init__()
        self.chosen = set(permutation(number)[:kept].tolist())
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("numbers", [], dist_reduce_fx="cat")

    def update(
        self, features: Float[Tensor, "pictures dim"], indices: Int64[Tensor, " pictures"]
    ) -> None:
        """Some pictures' features, a row each, and their numbers."""
        part = torch.tensor([index in self.chosen for index in indices.tolist()])
        self.rows.append(features[part.to(features.device)].float())
        self.numbers.append(indices.to(features.device)[part.to(features.device)])

    def compute(self) -> Float[Tensor, "kept dim"]:
        """In the order of the pictures."""
        return dim_zero_cat(self.rows)[dim_zero_cat(self.numbers).argsort()]


def kernel_distance(
    first: Float[Tensor, "first dim"], second: Float[Tensor, "second dim"]
) -> KernelDistance:
    """MMD² under (x·y / dim + 1)³, estimated without bias; of as many pictures of each."""
    number = min(len(first), len(second))
    x, y = first[:number].double(), second[:number].double()
    within = _kernel(x, x) + _kernel(y, y)
    across = _kernel(x, y)
    pairs = number * (number - 1)
    value = (within.sum() - within.trace()) / pairs - 2 * across.mean()
    terms = (within - across - across.T).fill_diagonal_(0).sum(1) / (number - 1)
    return KernelDistance(float(value), float(2 * terms.std() / number**0.5))


def _kernel(
    x: Float64[Tensor, "first dim"], y: Float64[Tensor, "second dim"]
) -> Float64[Tensor, "first second"]:
    return (x @ y.T / x.shape[1] + 1) ** 3
