"""Linear read-outs of classes in closed form, from sums over labelled pixels or pictures.

Least squares onto classes leaves rare ones unseen between frequent ones; a linear discriminant
with a ridge needs the same sums and does not (Hastie, Buja and Tibshirani 1995).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from diffdict.errors import UserError

SAME = 1e-12  # variance as a share of the second moment: below, float64 sums see rounding alone
NEVER = -1e30  # what a class scores that was not there to learn from: finite, for it is upsampled


class Readouts(NamedTuple):
    """Linear maps from features to scores of classes, one for each ridge."""

    weight: Float32[Tensor, "ridges classes channels"]
    bias: Float32[Tensor, "ridges classes"]

    def labels(
        self,
        tokens: Float[Tensor, "tokens channels"],
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> Int64[Tensor, "ridges height width"]:
        """The best class at each pixel; scores are upsampled, which is the same as features."""
        maps = self.scores(tokens).permute(1, 2, 0).unflatten(-1, grid)
        return F.interpolate(maps, size, mode="bilinear").argmax(1)

    def scores(
        self, tokens: Float[Tensor, "tokens channels"]
    ) -> Float32[Tensor, "tokens ridges classes"]:
        """Of each token by each ridge's map."""
        flat = torch.addmm(self.bias.flatten(), tokens.float(), self.weight.flatten(0, 1).T)
        return flat.unflatten(1, self.bias.shape)


class Sums(NamedTuple):
    """What is known of labelled tokens: products of their features, each with a 1 at its end."""

    second: Float64[Tensor, "channels1 channels1"]
    cross: Float64[Tensor, "channels1 classes"]  # of features with classes; last: how many of each

    def discriminants(self, ridges: Sequence[float]) -> Readouts:
        """With covariance within classes shrunk to its diagonal by each of these ridges."""
        pixels = self.cross[-1]
        total = pixels.sum()
        if not total:
            raise UserError("No labelled pixel was seen: a probe learns from pictures with masks")
        share, mean = pixels / total, self.second[-1, :-1] / total
        centre = (
            self.cross[:-1] / pixels.clamp(min=1e-9) - mean[:, None]
        )  # of classes, off the mean
        centre = centre * (pixels > 0)
        within = self.second[:-1, :-1] / total - mean[:, None] * mean - (centre * share) @ centre.T
        weight = self._weights(within, centre, ridges)
        bias = share.clamp(min=1e-300).log() - (centre / 2 + mean[:, None]).mul(weight).sum(1)
        bias = bias.masked_fill(pixels == 0, NEVER)
        return Readouts(weight.mT.float(), bias.float())

    def detectors(self, ridges: Sequence[float]) -> Readouts:
        """A score for each class by itself, where several may be true: the larger, the likelier.

        By least squares, which between two classes has the direction of the discriminant.
        """
        count = self.second[-1, -1]
        mean = self.second[-1, :-1] / count
        centre = self.cross[:-1] / self.cross[-1].clamp(min=1e-9) - mean[:, None]
        centre = centre * (self.cross[-1] > 0)
        around = self.second[:-1, :-1] / count - mean[:, None] * mean
        weight = self._weights(around, centre, ridges)
        return Readouts(weight.mT.float(), -(mean[:, None] * weight).sum(1).float())

    def contributions(
        self, weight: Float[Tensor, "classes channels"]
    ) -> Float64[Tensor, "classes channels"]:
        """How much each feature raises a class' score in its own rows, above the mean of all."""
        mean = self.second[-1, :-1] / self.second[-1, -1]
        class_mean = self.cross[:-1] / self.cross[-1].clamp(min=1e-9)
        return weight.double() * (class_mean - mean[:, None]).mT * (self.cross[-1] > 0)[:, None]

    def _weights(
        self,
        covariance: Float64[Tensor, "channels channels"],
        centre: Float64[Tensor, "channels classes"],
        ridges: Sequence[float],
    ) -> Float64[Tensor, "ridges channels classes"]:
        """The directions to the classes' centres under this covariance, shrunk by each ridge."""
        variance, size = covariance.diagonal(), self.second.diagonal()[:-1] / self.second[-1, -1]
        scale = variance.clamp(min=0).sqrt().masked_fill(variance <= SAME * size, torch.inf)
        scaled = covariance / scale[:, None] / scale
        eye = torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
        shrunk = torch.stack([scaled + ridge * eye for ridge in ridges])
        return torch.linalg.solve(shrunk, centre / scale[:, None]) / scale[:, None]


class ProbeSums(Metric):
    """Sums up labelled pixels or pictures of one map; states only add up, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        for name, width in (("second", channels + 1), ("cross", classes)):
            zero = torch.zeros(channels + 1, width, dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(
        self,
        tokens: Float[Tensor, "tokens channels"],
        between: Tensor,
        labels: Float64[Tensor, "tokens classes"],
    ) -> None:
        """One picture's tokens, and how its labelled pixels lie between them.

        `between`, sparse [tokens, tokens], and `labels` are Aᵀ A and Aᵀ Y of the upsampling A of
        tokens to labelled pixels and of their classes Y.
        """
        ones = torch.ones(len(tokens), 1, dtype=torch.float64, device=tokens.device)
        x = torch.cat([tokens.double(), ones], dim=1)
        self.second += x.T @ torch.sparse.mm(between, x)
        self.cross += x.T @ labels

    def compute(self) -> Sums:
        """The sums over everything seen."""
        return Sums(self.second, self.cross)

    def add_rows(
        self, rows: Float[Tensor, "rows channels"], truth: Float64[Tensor, "rows classes"]
    ) -> None:
        """Rows that are each one token, and the classes true of each."""
        count, every = len(rows), torch.arange(len(rows), device=rows.device).expand(2, -1)
        ones = rows.new_ones(count, dtype=torch.float64)
        between = torch.sparse_coo_tensor(every, ones, (count, count), check_invariants=False)
        self.update(rows, between, truth)
