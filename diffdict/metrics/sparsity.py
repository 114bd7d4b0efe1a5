"""How well a dictionary gives tokens back, with how few latents, and how alike its rows are."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric

SAME = 1e-12  # variance as a share of the second moment: below, float64 sums see rounding alone
DECADES, BINS = 8, 32  # a density lies between 1e-8 and 1; four bins a decade


class SparsityFigures(NamedTuple):
    """What a dictionary does to the tokens it has seen."""

    fvu: Float64[Tensor, ""]  # squared error / variance about the mean; 1 - FVU is the R²
    cosine: Float64[Tensor, ""]  # of centred token and centred reconstruction, on average
    l0: Float64[Tensor, ""]  # active latents a token
    dead: Float64[Tensor, ""]  # share of the latents that were never active
    density: Float64[Tensor, " latents"]  # share of the tokens at which each was active
    fvu_parts: dict[int, Float64[Tensor, ""]]  # the same as fvu, of parts of the dimensions


class Sparsity(ExactMetric):
    """Reconstruction and use of latents over all tokens of all ranks, in sums of float64.

    FVU is the squared error over the variance about the mean of the tokens seen, summed over the
    dimensions (the variance-weighted form); it is nan where all the tokens are the same.
    The cosine is that of token and reconstruction after `mean` is taken from both: uncentred, an
    off-centre stream has a cosine near 1 with its own mean. It is 0 where either is the mean.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(
        self,
        d_in: int,
        latents: int,
        mean: Float[Tensor, " d_in"] | None = None,
        parts: Mapping[int, slice] = MappingProxyType({}),
    ) -> None:
        """`mean`, the dictionary's own or 0, must be the same on every rank.

        `parts`: dimensions whose FVU is also said by itself.
        """
        super().__init__()
        self.parts = dict(parts)
        mean = torch.zeros(d_in) if mean is None else mean
        self.register_buffer("mean", mean.detach().double().clone(), persistent=False)
        for name in ("squared_error", "cosine"):
            self._sum(name, torch.zeros((), dtype=torch.float64))
        for name in ("first", "second"):  # moments about `mean`: close to 0, nothing cancels
            self._sum(name, torch.zeros(d_in, dtype=torch.float64))
        for name in ("tokens", "active"):
            self._sum(name, torch.zeros((), dtype=torch.int64))
        self._sum("part_errors", torch.zeros(len(self.parts), dtype=torch.float64))
        self._sum("fired", torch.zeros(latents, dtype=torch.int64))

    def _sum(self, name: str, zero: Tensor) -> None:
        self.add_state(name, zero, dist_reduce_fx="sum")

    def update(
        self,
        x: Float[Tensor, "tokens d_in"],
        reconstruction: Float[Tensor, "tokens d_in"],
        latents: Int64[Tensor, " entries"],
        values: Float[Tensor, " entries"],
    ) -> None:
        """Raw tokens, what the dictionary makes of them, and their codes' entries in any order."""
        token, ours = x.double() - self.mean, reconstruction.double() - self.mean
        error = (token - ours).square()
        self.squared_error += error.sum()
        for place, part in enumerate(self.parts.values()):
            self.part_errors[place] += error[:, part].sum()
        self.cosine += F.cosine_similarity(token, ours).sum()
        self.first += token.sum(0)
        self.second += token.square().sum(0)
        active = (values > 0).long()
        self.tokens += len(x)
        self.active += active.sum()
        self.fired.index_add_(0, latents, active)

    def compute(self) -> SparsityFigures:
        """The figures of everything seen."""
        tokens = self.tokens.double()
        if tokens == 0:
            raise UserError(
                "No tokens were seen, so a dictionary's figures cannot be said: hold pictures out "
                "with data.val_pictures or data.val_fraction"
            )
        variance, *of_parts = (self._variance(part) for part in (slice(None), *self.parts.values()))
        shares = [error / spread for error, spread in zip(self.part_errors, of_parts, strict=True)]
        return SparsityFigures(
            fvu=self.squared_error / variance,
            cosine=self.cosine / tokens,
            l0=self.active / tokens,
            dead=(self.fired == 0).double().mean(),
            density=self.fired / tokens,
            fvu_parts=dict(zip(self.parts, shares, strict=True)),
        )

    def _variance(self, part: slice) -> Float64[Tensor, ""]:
        """Summed over these dimensions; nan where all the tokens are the same there."""
        first, second = self.first[part], self.second[part]
        variance = second.sum() - first.square().sum() / self.tokens.double()
        same = variance <= SAME * second.sum()
        return torch.full_like(variance, torch.nan) if same else variance


class DensityHistogram(NamedTuple):
    """Counts between edges that are the same for every dictionary."""

    edges: Float64[Tensor, " edges"]  # log10 of the density, from -8 to 0
    counts: Int64[Tensor, " bins"]  # the first holds what is rarer too, the dead included


def density_histogram(density: Float[Tensor, " latents"]) -> DensityHistogram:
    """How many latents are how rare: a page and a live plot show the same numbers."""
    # rounded, so that a density of 0.1 falls into one bin in float32 and float64
    logs = density.detach().double().cpu().log10().mul(1e6).round().div(1e6)
    number = (logs.clamp(-DECADES, 0) + DECADES) * (BINS // DECADES)
    counts = number.long().clamp(max=BINS - 1).bincount(minlength=BINS)
    return DensityHistogram(torch.linspace(-DECADES, 0, BINS + 1, dtype=torch.float64), counts)


class Coherence(NamedTuple):
    """|cosine| between different rows of a dictionary."""

    mean_max: float  # of a row with the row most like it, on average
    max: float  # of the two rows most alike


@torch.no_grad()
def coherence(rows: Float[Tensor, "latents d_in"], chunk: int = 512) -> Coherence:
    """How alike the rows are; 0 when they are orthogonal or there is but one."""
    nearest = rows.new_zeros(len(rows), dtype=torch.float32)
    with torch.autocast(rows.device.type, enabled=False):  # bf16 sees cosines 0.004 apart
        rows = F.normalize(rows.float())
        for start in range(0, len(rows), chunk):  # rows before `start` have met these already
            cosines = (rows[start : start + chunk] @ rows[start:].T).abs_().fill_diagonal_(0)
            block, others = nearest[start : start + chunk], nearest[start:]
            torch.maximum(block, cosines.amax(1), out=block)
            torch.maximum(others, cosines.amax(0), out=others)
    nearest.clamp_(max=1)
    return Coherence(nearest.mean().item(), nearest.max().item())
