"""Concatenated timesteps as a crosscoder: each timestep's part of a token, and of a row.

One encoder sees all timesteps at once, and a row has a part for each (Lindsey et al. 2024).
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, Float64
from torch import Tensor

ONE = 0.6  # of a row's squared length in one timestep: the latent lives there


def timestep_parts(dims: Sequence[Mapping], d_in: int) -> dict[int, slice]:
    """Which columns are of which timestep; none where there is one, or where maps are stacked."""
    ends: dict[int, list[int]] = {}
    for each in dims:
        if each["timestep"] is not None and (each["from"], each["to"]) != (0, d_in):
            ends.setdefault(each["timestep"], []).extend((each["from"], each["to"]))
    if len(ends) < 2:
        return {}
    return {timestep: slice(min(edges), max(edges)) for timestep, edges in ends.items()}


def length_shares(
    rows: Float[Tensor, "latents d_in"], parts: Mapping[int, slice]
) -> dict[int, Float64[Tensor, " latents"]]:
    """The share of each row's squared length that lies in each timestep."""
    squares = rows.detach().double().square()
    total = squares.sum(1).clamp(min=1e-300)
    return {timestep: squares[:, part].sum(1) / total for timestep, part in parts.items()}


def in_one_timestep(shares: Mapping[int, Float64[Tensor, " latents"]]) -> float:
    """The share of latents that live in one timestep alone."""
    largest = next(iter(shares.values())).clone()
    for share in shares.values():
        largest = largest.maximum(share)
    return float((largest > ONE).double().mean())


def share_columns(
    shares: Mapping[int, Float64[Tensor, " latents"]], latent: int | None
) -> dict[str, float | None]:
    """A latent's cells of a table: share_t0050, share_t0250."""
    return {
        f"share_t{timestep:04d}": None if latent is None else float(share[latent])
        for timestep, share in shares.items()
    }
