"""Blocks of any backbone at a timestep, pooled over the picture or its cells, side by side."""

from collections.abc import Mapping
from copy import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, combined_sha256
from diffdict.errors import UserError
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.representations.base import Representation

POOLS = {"mean": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}


class Pooled(Representation):
    """Every block at every timestep, each as its mean or largest value in each of grid² cells."""

    def __init__(
        self,
        backbone: Backbone,
        timestep: Timesteps,
        block: Blocks,
        noise: Noise | Mapping | None = None,
        pool: str = "mean",
        grid: int = 1,
        image_size: int | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """One noise for all pictures, over whose draws maps are averaged; `grid` cells a side.

        `image_size` is the side that the backbone is shown; None: as pictures come.
        """
        super().__init__()
        noise = shared_noise(noise)
        if pool not in POOLS:
            raise UserError(f"pool is {' or '.join(POOLS)}, got {pool!r}")
        if grid < 1:
            raise UserError(f"grid is the number of cells a side, at least 1, got {grid}")
        self.passes = Passes(backbone, timestep, block, noise)
        self.net, self.pool, self.grid, self.image_size = self.passes.net, pool, grid, image_size
        for key in self.passes.keys:
            if min(backbone.shapes[key[1]][1:]) < grid:
                side = min(backbone.shapes[key[1]][1:])
                raise UserError(
                    f"grid={grid} cells a side of block {key[1]} of {backbone.name}, which is "
                    f"{side}×{side}: grid={side} at most"
                )
        self.name = name or f"pooled_{backbone.name}"
        self.freeze(sum(backbone.shapes[block][0] for _, block in self.passes.keys) * grid**2)

    @property
    def sha256(self) -> str:
        """Of the network, and of all that says how it is looked through."""
        facts = self.passes.keys, self.pool, self.grid, self.image_size
        noise = self.passes.noise.facts() if self.net.num_timesteps is not None else None
        return combined_sha256(self.net.sha256, repr(facts), repr(noise))

    def other_noise(self) -> Representation | None:
        """The same blocks under the noise of the next seed."""
        other, passes = copy(self), next_noise(self.passes)
        other.passes = passes
        return None if passes is None else other

    @torch.no_grad()
    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The vector of every picture in [-1, 1]."""
        self.check_pictures(images)
        maps = self.passes.maps(images, range(len(images)))
        pooled = [POOLS[self.pool](maps[key].float(), self.grid) for key in self.passes.keys]
        return torch.cat([each.flatten(1) for each in pooled], dim=1)


def shared_noise(noise: Noise | Mapping | None) -> Noise:
    """The noise of a representation: one picture has one vector, whatever its number."""
    noise = noise if isinstance(noise, Noise) else Noise(**(noise or {}))
    if not noise.shared:
        raise UserError(
            "noise.shared=false gives each number of a picture a noise of its own, and a "
            "representation knows no numbers: noise.shared=true noise.draws=4, say"
        )
    return noise


def next_noise(passes: Passes) -> Passes | None:
    """The same passes under the noise of the next seed; None where there is none."""
    if passes.timesteps == [None]:
        return None
    noise = passes.noise._replace(seed=passes.noise.seed + 1)
    return Passes(passes.net, passes.timesteps, passes.blocks, noise, passes.compute)
