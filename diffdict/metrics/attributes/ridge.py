"""Ridge regression onto attributes in closed form, at every prefix of the features at once.

Second moments are summed once over all pictures. Where something is unknown of a picture, its row
is kept, and taken off the moments of the attributes that it says nothing of: each attribute's
answer is that of its known pictures alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from diffdict.metrics.attributes.attribute_scores import known_alike
from diffdict.metrics.base import ExactMetric

CONSTANT = 1e-12  # variance as a share of the second moment: below, it is rounding alone


class AttributeSums(ExactMetric):
    """Sums up the features of pictures and their attributes; states only add up, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, channels: int, attributes: int) -> None:
        super().__init__()
        for name, width in (("second", channels + 1), ("cross", attributes)):
            zero = torch.zeros(channels + 1, width, dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")
        self.add_state("partial_rows", [], dist_reduce_fx="cat")
        self.add_state("partial_truth", [], dist_reduce_fx="cat")

    def update(
        self,
        rows: Float[Tensor, "pictures channels"],
        truth: Float[Tensor, "pictures attributes"],
    ) -> None:
        """A row a picture, and its attributes; NaN where unknown."""
        ones = torch.ones(len(rows), 1, dtype=torch.float64, device=rows.device)
        x, y = torch.cat([rows.double(), ones], dim=1), truth.double().to(rows.device)
        self.second += x.T @ x
        self.cross += x.T @ y.nan_to_num()
        partial = y.isnan().any(1)
        self.partial_rows.append(rows[partial].float())  # where there are none, an empty one:
        self.partial_truth.append(y[partial].float())  # ranks gather alike

    def compute(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The sums over everything seen, and the rows of which something is unknown."""
        rows, truth = dim_zero_cat(self.partial_rows), dim_zero_cat(self.partial_truth)
        return self.second, self.cross, rows.double(), truth

    def groups(self) -> list["RidgeGroup"]:
        """Groups of attributes that are known of the same pictures, each with its moments."""
        second, cross, rows, truth = self.compute()
        width, count = len(second) - 1, cross.shape[1]
        rows, truth = rows.view(-1, width), truth.view(-1, count)  # torchmetrics squeezes
        groups = []
        for columns in known_alike(truth) if len(truth) else [torch.arange(count)]:
            unknown = rows[truth[:, columns[0]].isnan()] if len(truth) else rows
            x = torch.cat([unknown, unknown.new_ones(len(unknown), 1)], dim=1)
            groups.append(ridge_group(columns, second - x.T @ x, cross[:, columns]))
        return groups


class RidgeGroup(NamedTuple):
    """Attributes that are known of the same pictures: features as correlations, and with them."""

    attributes: Int64[Tensor, " own"]
    pictures: float  # of which they are known
    mean: Float64[Tensor, " channels"]
    scale: Float64[Tensor, " channels"]  # the deviation; infinite of a constant channel
    correlation: Float64[Tensor, "channels channels"]
    with_attributes: Float64[Tensor, "channels own"]  # E[(y - mean y) (x - mean x)] / scale
    level: Float64[Tensor, " own"]  # the attributes' own mean

    def standardized(
        self, rows: Float[Tensor, "pictures channels"]
    ) -> Float64[Tensor, "pictures channels"]:
        """Features of mean 0 and deviation 1 over the pictures summed up."""
        return (rows.double() - self.mean) / self.scale

    def permuted(self, order: Int64[Tensor, " channels"]) -> "RidgeGroup":
        """The same with its channels in another order."""
        return self._replace(
            mean=self.mean[order],
            scale=self.scale[order],
            correlation=self.correlation[order][:, order],
            with_attributes=self.with_attributes[order],
        )

    def factor(
        self, ridge: float, part: slice = slice(None)
    ) -> Float64[Tensor, "channels1 channels1"]:
        """The Cholesky factor of these channels' shrunk correlations."""
        block = self.correlation[part, part]
        return torch.linalg.cholesky(
            block + ridge * torch.eye(len(block), dtype=block.dtype).to(block)
        )

    def prefix_scores(
        self, rows: Float64[Tensor, "pictures channels"], ridge: float, ends: Sequence[int]
    ) -> Iterator[Float64[Tensor, "pictures own"]]:
        """What the probes of the first so many channels say of standardized rows, one end a time.

        With L the factor of all, L⁻¹ x and L⁻¹ c of the first n channels are the first n of all,
        so that the score of each prefix goes on from that of the one before.
        """
        lower = self.factor(ridge)
        x = torch.linalg.solve_triangular(lower, rows.T, upper=False)
        c = torch.linalg.solve_triangular(lower, self.with_attributes, upper=False)
        scores, begin = self.level.expand(len(rows), -1).clone(), 0
        for end in ends:
            scores = scores + x[begin:end].T @ c[begin:end]
            begin = end
            yield scores

    def scores(
        self, rows: Float64[Tensor, "pictures channels"], ridge: float, part: slice
    ) -> Float64[Tensor, "pictures own"]:
        """What the probe of these channels alone says of standardized rows."""
        weight = torch.cholesky_solve(self.with_attributes[part], self.factor(ridge, part))
        return self.level + rows[:, part] @ weight


def ridge_group(
    attributes: Int64[Tensor, " own"],
    second: Float64[Tensor, "channels1 channels1"],
    cross: Float64[Tensor, "channels1 own"],
) -> RidgeGroup:
    """From sums of products, each row with a 1 at its end."""
    count = second[-1, -1].clamp(min=1)
    mean, level = second[-1, :-1] / count, cross[-1] / count
    covariance = second[:-1, :-1] / count - mean[:, None] * mean
    size = second.diagonal()[:-1] / count
    variance = covariance.diagonal()
    scale = variance.clamp(min=0).sqrt().masked_fill(variance <= CONSTANT * size, torch.inf)
    return RidgeGroup(
        attributes,
        float(second[-1, -1]),
        mean,
        scale,
        covariance / scale[:, None] / scale,
        (cross[:-1] / count - mean[:, None] * level) / scale[:, None],
        level,
    )
