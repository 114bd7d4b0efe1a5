"""When an attribute fades from a network's features, and at which prefix of a code it is known."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffdict.reports.attributes.attribute_map import gain
from diffdict.results.tables import Row

GainCurve = list[tuple[float, float]]  # timestep and gain over chance, timesteps ascending
RANDOM, PREFIX = "random", "prefix"


class CodeCurves(NamedTuple):
    """Of each attribute how much of it each prefix holds, and random sets of as many entries."""

    prefixes: dict[str, GainCurve]
    random: list[dict[str, GainCurve]]  # one for each drawn order


def network_curves(rows: Sequence[Row]) -> dict[str, GainCurve]:
    """Of each attribute its gain at every timestep, at the block that pictures held out choose."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row["timestep"] is None or row["val_score"] is None or not row["in_mean"]:
            continue
        key = row["attribute"], row["timestep"]
        if key not in best or row["val_score"] > best[key]["val_score"]:
            best[key] = row
    return _curves((name, float(timestep), row) for (name, timestep), row in best.items())


def code_curves(rows: Sequence[Row]) -> CodeCurves:
    """Of each attribute its gain at the first timestep that opens each prefix."""
    parts = [row for row in rows if row["in_mean"] and row.get("kind_of_part") in (PREFIX, RANDOM)]
    groups: dict[str, list[Row]] = {}
    for row in parts:
        order = row["part"].partition("-")[0] if row["kind_of_part"] == RANDOM else PREFIX
        groups.setdefault(order, []).append(row)
    curves = {
        name: _curves((row["attribute"], float(row["first_timestep"]), row) for row in each)
        for name, each in groups.items()
    }
    return CodeCurves(curves.pop(PREFIX, {}), list(curves.values()))


def _curves(points: Iterable[tuple[str, float, Row]]) -> dict[str, GainCurve]:
    curves: dict[str, GainCurve] = {}
    for name, timestep, row in points:
        if (value := gain(row)) is not None:
            curves.setdefault(name, []).append((timestep, value))
    return {name: sorted(curve) for name, curve in curves.items()}


def fades(curve: GainCurve, share: float) -> float:
    """The timestep after its best at which less than this share of that is left.

    Between two timesteps it falls straight; what never fades does so at the last one.
    """
    top = max(range(len(curve)), key=lambda i: curve[i][1])
    wanted = share * curve[top][1]
    for (t0, high), (t1, low) in zip(curve[top:], curve[top + 1 :], strict=False):
        if low < wanted:
            return t0 + (t1 - t0) * (high - wanted) / (high - low)
    return curve[-1][0]


def known(curve: GainCurve, share: float) -> float:
    """The first timestep whose prefix has this share of what the best one has."""
    wanted = share * max(value for _, value in curve)
    return next(timestep for timestep, value in curve if value >= wanted)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's, equal values sharing their ranks; None where one of them never changes."""
    a, b = (_ranks(np.asarray(each, dtype=np.float64)) for each in (x, y))
    if len(a) < 3 or not (a.std() and b.std()):
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def strong(curves: Mapping[str, GainCurve], least: float) -> set[str]:
    """The attributes that are there at all: at their best so far above chance."""
    return {name for name, curve in curves.items() if max(value for _, value in curve) >= least}
