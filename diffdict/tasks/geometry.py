"""`task=geometry`: how a network's pooled features lie on the sphere, at every timestep and block.

Two views of a picture are the picture under two noises, both scaled to length 1 (Wang & Isola
2020; of diffusion models Xiang et al. 2023).
"""

from collections.abc import Mapping

import pytorch_lightning as pl
from torch import nn
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.pooled import pooled_vectors
from diffdict.features.store.shards import Stream
from diffdict.metrics.geometry import SphereFigures, SphereGeometry
from diffdict.seeds import entropy


class Geometry(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        net: Backbone,
        *,
        timestep: Timesteps = None,
        block: Blocks = None,
        noise: Noise = Noise(shared=False),  # noqa: B008 - immutable
        compute: str = "fp32",
        group: int | None = 512,
        alpha: int | float = 2,
        t: int | float = 2,
    ) -> None:
        """`group`: rows whose pairs are compared, as published; None: all pictures are one group.

        `alpha` is the power of distances in alignment, `t` the factor of their squares in
        uniformity.
        """
        super().__init__()
        if net.num_timesteps is None:
            raise UserError(
                f"task=geometry compares a picture under two noises, and {net.name} has no "
                "timesteps: give a diffusion network with backbone="
            )
        if group is not None and group < 2:
            raise UserError(f"model.group is 2 rows or more, or null for all, got {group}")
        if min(alpha, t) <= 0:
            raise UserError(f"model.alpha and model.t are positive, got {alpha} and {t}: 2 and 2")
        self.passes = Passes(net, timestep, block, noise, compute)
        self.views = noise, noise._replace(seed=entropy(noise.seed, 1))
        self.cells = [Stream(*net.shapes[key[1]], "fp32", *key) for key in self.passes.keys]
        self.measured = nn.ModuleList(SphereGeometry(group, alpha, t) for _ in self.cells)
        self.found: list[SphereFigures] = []

    def on_test_start(self) -> None:
        """Begins anew."""
        for metric in self.measured:
            metric.reset()

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """Both views of a batch."""
        pictures = batch["image"], batch["index"].tolist()
        views = [pooled_vectors(self.passes, *pictures, noise) for noise in self.views]
        for metric, first, second in zip(self.measured, *views, strict=True):
            metric.update(F.normalize(first, dim=1), F.normalize(second, dim=1), batch["index"])

    def on_test_epoch_end(self) -> None:
        """The figures of every timestep and block."""
        self.found = [metric.compute() for metric in self.measured]
        for cell, figures in zip(self.cells, self.found, strict=True):
            for name, value in figures._asdict().items():
                self.log(f"test/{cell.name}/{name}", value)

    def tables(self) -> dict[str, list[dict[str, str | int | float | None]]]:
        """Every timestep and block, as it was measured."""
        rows = [
            {
                "timestep": cell.timestep,
                "block": cell.block,
                "channels": cell.channels,
                "sigma": self.passes.net.noise_level(cell.timestep),
                **figures._asdict(),
            }
            for cell, figures in zip(self.cells, self.found, strict=True)
        ]
        return {"cells": rows}
