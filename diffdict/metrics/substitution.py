"""What a network loses where a block's map is replaced by what a dictionary makes of it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric

VARIANTS = ("as_it_is", "reconstruction", "mean", "zero", "random")
LEAST_COST = 0.01  # of the loss: below, what an ablation costs is too little to be recovered
DEVIATIONS = 2  # … and below so many of its standard errors


class SubstitutionFigures(NamedTuple):
    """Means over pictures; changes are paired, recovered is nan where ablation costs too little."""

    loss: dict[str, float]  # of each variant
    change: dict[str, float]  # against the block as it is
    error: dict[str, float]  # the standard error of that change
    recovered: float  # share of what mean ablation costs that the reconstruction gives back
    recovered_zero: float  # … of zero ablation
    excess: float  # the change by the dictionary's error over that by a random one as long


class Substitution(ExactMetric):
    """Losses of pictures under five variants of a block's map, in sums of float64."""

    full_state_update = False
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__()
        number = len(VARIANTS)
        for name in ("losses", "changes", "squares"):
            zero = torch.zeros(number, dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")
        self.add_state("pictures", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, losses: Mapping[str, Float[Tensor, " pictures"]]) -> None:
        """The loss of each picture under each variant, with one and the same noise."""
        if losses.keys() != set(VARIANTS):
            raise UserError(f"Substitution compares {', '.join(VARIANTS)}, got {', '.join(losses)}")
        values = torch.stack([losses[name].double() for name in VARIANTS])
        changes = values - values[0]
        self.losses += values.sum(1)
        self.changes += changes.sum(1)
        self.squares += changes.square().sum(1)
        self.pictures += values.shape[1]

    def compute(self) -> SubstitutionFigures:
        """The figures of everything seen."""
        number = int(self.pictures)
        if not number:
            raise UserError("No picture was seen, so no loss can be compared")
        loss, change = self.losses / number, self.changes / number
        spread = (self.squares / number - change.square()).clamp(min=0)
        error = (spread / max(1, number - 1)).sqrt() if number > 1 else spread * torch.nan
        values = [dict(zip(VARIANTS, each.tolist(), strict=True)) for each in (loss, change, error)]
        return SubstitutionFigures(
            *values,
            recovered=_recovered(*values, "mean"),
            recovered_zero=_recovered(*values, "zero"),
            excess=values[1]["reconstruction"] / values[1]["random"]
            if values[1]["random"] > 0
            else torch.nan,
        )


def _recovered(
    loss: Mapping[str, float], change: Mapping[str, float], error: Mapping[str, float], by: str
) -> float:
    """1 − what the reconstruction costs over what this ablation costs."""
    least = max(LEAST_COST * loss["as_it_is"], DEVIATIONS * error[by])
    if not change[by] > least:
        return torch.nan
    return 1 - change["reconstruction"] / change[by]
