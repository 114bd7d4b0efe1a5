"""Mean, scale and off-centre norm of tokens, measured in one pass before training."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.features.tokens.pool import Pool
from diffdict.seeds import permutation

SAME = 1e-12  # variance as a share of the second moment: below, float64 sums see rounding alone


class Measured(NamedTuple):
    """Statistics of the tokens, from which a dictionary's buffers are initialised."""

    mean: Float32[Tensor, "d_in"]
    scale: float  # the mean of |scale × (token - mean)|² is d_in
    gamma: float  # ‖μ‖ / ‖σ‖ of the tokens, the off-centre norm: large values predict dead latents
    dims: list[dict]  # timestep, block, from, to and gamma of each stream; stacked: all of d_in


class Moments(NamedTuple):
    """Sums over tokens: one row, or one for each stream if streams are stacked."""

    count: Float64[Tensor, "rows 1"]
    first: Float64[Tensor, "rows d_in"]
    second: Float64[Tensor, "rows d_in"]

    @property
    def variance(self) -> float:
        """Σσ² over the dimensions; 0 if it is within rounding error."""
        count, second = self.count.sum(), self.second.sum()
        variance = second / count - (self.first.sum(0) / count).square().sum()
        return variance.item() if variance > SAME * second / count else 0.0

    @property
    def gamma(self) -> float:
        """‖μ‖ / ‖σ‖; infinite if all tokens are the same."""
        norm = (self.first.sum(0) / self.count.sum()).norm().item()
        return norm / math.sqrt(self.variance) if self.variance else math.inf


def moments(pool: Pool, units: Int64[Tensor, " units"]) -> Moments:
    """The sums over these units, read a few at a time."""
    rows = len(pool.streams) if pool.stack else 1
    count = torch.zeros(rows, 1, dtype=torch.float64)
    first, second = torch.zeros(2, rows, pool.width, dtype=torch.float64)
    for part, tokens in pool.read(units):
        x = tokens.cpu().double()
        owners = pool.owners(part) if pool.stack else None
        for row in range(rows):
            members = x if owners is None else x[owners == row]
            count[row] += len(members)
            first[row] += members.sum(0)
            second[row] += members.square().sum(0)
    return Moments(count, first, second)


def measure_tokens(pool: Pool) -> Measured:
    """Mean, scale and off-centre norms of the pool, or of a fixed sample of it."""
    sums = moments(pool, permutation(pool.units, 0)[: pool.sample].sort().values)
    if not sums.second.isfinite().all():
        raise UserError(_not_finite(pool, sums.second))
    if not sums.variance:
        raise UserError("All tokens are the same: nothing can be learned from them")
    dims = []
    for number, (stream, columns) in enumerate(zip(pool.streams, pool.columns, strict=True)):
        row = slice(number, number + 1) if pool.stack else slice(None)
        stream_sums = Moments(sums.count[row], sums.first[row, columns], sums.second[row, columns])
        place = {"from": columns.start, "to": columns.stop, "gamma": stream_sums.gamma}
        dims.append({"timestep": stream.timestep, "block": stream.block, **place})
    mean = sums.first.sum(0) / sums.count.sum()
    return Measured(mean.float(), math.sqrt(pool.width / sums.variance), sums.gamma, dims)


def off_centre(
    mean: Float32[Tensor, " d_in"], scale: float, dims: Sequence[Mapping]
) -> dict[str, float]:
    """‖μ‖ / ‖σ‖ of the tokens, and of each timestep and block; predicts dead latents."""
    gammas = {"gamma": float(mean.norm()) * scale / math.sqrt(len(mean))}
    for stream in dims if len(dims) > 1 else ():
        step = "" if stream["timestep"] is None else f"_t{stream['timestep']}"
        gammas[f"gamma{step}_b{stream['block']}"] = stream["gamma"]
    return gammas


def _not_finite(pool: Pool, second: Float64[Tensor, "rows d_in"]) -> str:
    rows = second if pool.stack else [second[0, columns] for columns in pool.columns]
    names = [s.name for s, row in zip(pool.streams, rows, strict=True) if not row.isfinite().all()]
    return (
        f"Tokens of {', '.join(names)} hold NaN or infinity, of which nothing can be learned: "
        f"use data.dtype=bf16 or data.compute=fp32, or look at the backbone's checkpoint"
    )
