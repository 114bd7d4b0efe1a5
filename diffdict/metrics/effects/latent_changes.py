"""What became of latents that were switched on, in the codes of what was drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from diffdict.metrics.effects.class_effects import rank_share


class SwitchedPairs(NamedTuple):
    """Samples with a latent off and on, from the same noise: numbers of samples, line by line."""

    latents: list[int]  # of each line; -1: a random direction
    off: Int64[Tensor, "lines noises"]
    on: Int64[Tensor, "lines noises"]

    @classmethod
    def of(
        cls,
        line: Sequence[int],
        latent: Sequence[int],
        strength: Sequence[float],
        noise: Sequence[int],
    ) -> "SwitchedPairs":
        """Of a number a sample each; strength 0 is off, 1 is on."""
        places = {key: i for i, key in enumerate(zip(line, noise, strength, strict=True))}
        lines, noises = sorted(set(line)), sorted(set(noise))
        off, on = (
            torch.tensor([[places[one, other, end] for other in noises] for one in lines])
            for end in (0.0, 1.0)
        )
        whose = dict(zip(line, latent, strict=True))
        return cls([whose[one] for one in lines], off, on)

    def change(self, values: Float[Tensor, "samples width"]) -> Float64[Tensor, "lines width"]:
        """From off to on, the mean over the noises."""
        values = values.double()
        return (values[self.on] - values[self.off]).mean(1)


class LatentRise(NamedTuple):
    """How far a latent's own code rose when it was switched on."""

    latent: int
    rise: float  # in deviations of real pictures
    rank: int  # among the changes of all latents by their size; 1: none changed more
    null: float | None  # its mean rise along random directions
    p: float | None  # share of the random directions, and itself, along which it rises as much


def latent_rises(
    pairs: SwitchedPairs,
    codes: Float[Tensor, "samples width"],
    latents: Sequence[int],
    deviation: Float[Tensor, " width"],
) -> list[LatentRise]:
    """Of every latent that was switched; `latents` are the numbers of the codes' dimensions."""
    scale = torch.where(deviation > 0, 1 / deviation.double(), 0)
    change = pairs.change(codes) * scale
    random = change[[latent < 0 for latent in pairs.latents]]
    rises = []
    for row, latent in zip(change, pairs.latents, strict=True):
        if latent < 0:
            continue
        place = list(latents).index(latent)
        others = random[:, place]
        rise = float(row[place])
        more = row.abs() > rise
        more[place] = False
        rises.append(
            LatentRise(
                latent,
                rise,
                1 + int(more.sum()),
                float(others.mean()) if len(others) else None,
                rank_share(rise, others) if len(others) else None,
            )
        )
    return rises
