"""`task=doctor`: what a network's features are like at every timestep and block, without labels.

How far off their centre tokens lie, which channels dwarf the others, how many directions are in
use, how much likeness follows distance, and how much of the variance is noise: a table, maps, and
one sentence of advice.
"""

from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError, at_least, override
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.store.shards import Stream
from diffdict.metrics.attributes.rank_correlation import spearman
from diffdict.metrics.features.feature_health import FeatureHealth, HealthFigures
from diffdict.results.folders import read_results
from diffdict.results.tables import Row, print_rows
from diffdict.seeds import entropy

OFF_CENTRE = 1.0  # gamma from which the mean is longer than the tokens differ
NOISY = 0.5  # share of the variance from which more draws are worth their passes
SHOWN = 8  # massive channels that a row names
WORTH = ("miou", "accuracy", "average_precision", "score")  # what a probe's cell says it is worth


class Doctor(pl.LightningModule):
    """Measures; it learns nothing and reads no label."""

    def __init__(
        self,
        net: Backbone,
        *,
        timestep: Timesteps = None,
        block: Blocks = None,
        noise: Noise = Noise(shared=False),  # noqa: B008 - immutable
        compute: str = "fp32",
        views: int = 2,
        massive: float | int = 10,
        probes: str | None = None,
    ) -> None:
        """`views`: draws of noise of each picture that are compared.

        `massive`: how many times the median size a channel must have. `probes`: the folder of a
        run of task=probe_sweep, whose order of timesteps and blocks is compared with this one's.
        """
        super().__init__()
        at_least(1, "model", views=views)
        timed = net.num_timesteps is not None
        if timed and noise.shared and views > 1:
            raise UserError(
                "task=doctor tells noise from pictures, so each picture has its own: "
                "noise.shared=false"
            )
        self.passes = Passes(net, timestep, block, noise, compute)
        seeds = [noise.seed, *(entropy(noise.seed, view) for view in range(1, views))]
        self.views = [noise._replace(seed=seed) for seed in (seeds if timed else seeds[:1])]
        self.cells = [Stream(*net.shapes[key[1]], "fp32", *key) for key in self.passes.keys]
        self.measured = nn.ModuleList(
            FeatureHealth(cell.channels, (cell.height, cell.width), massive) for cell in self.cells
        )
        self.worth = {} if probes is None else probed_cells(probes)
        self.found: list[HealthFigures] = []

    def on_test_start(self) -> None:
        """Begins anew."""
        for metric in self.measured:
            metric.reset()

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """Some pictures, under every draw of noise."""
        images, indices = batch["image"], batch["index"].tolist()
        self.passes.net.to(images.device)
        views = []
        for noise in self.views:
            self.passes.noise = noise
            views.append(self.passes.maps(images, indices))
        for key, cell, metric in zip(self.passes.keys, self.cells, self.measured, strict=True):
            draws = torch.stack([maps[key].float().flatten(2).mT for maps in views])
            if not draws.isfinite().all():
                raise UserError(
                    f"{cell.name} of {self.passes.net.name} holds NaN or infinity for one of the "
                    f"pictures {indices[0]} to {indices[-1]}: try compute=fp32"
                )
            metric.update(draws)

    def on_test_epoch_end(self) -> None:
        """The figures of every timestep and block."""
        self.found = [metric.compute() for metric in self.measured]
        for cell, figures in zip(self.cells, self.found, strict=True):
            for name, value in figures._asdict().items():
                if value is not None:
                    self.log(f"test/{cell.name}/{name}", float(value))

    def on_test_end(self) -> None:
        """The advice, and how far the order without labels is that of the probes."""
        if not self.trainer.is_global_zero:
            return
        if agreement := self._agreement():
            print_rows(agreement, "Spearman's correlation with the probes")
        Console(soft_wrap=True).print(self.advice(), markup=False, highlight=False)

    def advice(self) -> str:
        """Where to look first, and what to do to the features there."""
        best = max(range(len(self.cells)), key=lambda i: _or_least(self.found[i].structure))
        figures, metric = self.found[best], self.measured[best]
        place = [
            override(key, value)
            for key in ("timestep", "block")
            if (value := getattr(self.cells[best], key)) is not None
        ]
        findings = []
        if _or_least(figures.gamma) > OFF_CENTRE:
            findings.append(
                f"tokens lie off their centre (γ {figures.gamma:.2g}): data.normalise=channel"
            )
        if massive := metric.massive_channels():
            words = " and ".join(map(str, massive[:SHOWN]))
            drop = override("data.drop_channels", massive[:SHOWN])
            findings.append(f"channels {words} dwarf the rest: {drop}")
        if _or_least(figures.noise_share) > NOISY:
            share = f"{100 * figures.noise_share:.0f} %"
            findings.append(f"{share} of the variance is noise: noise.draws=4")
        rest = "; ".join(findings) or "the features can be taken as they are"
        why = "" if figures.structure is None else ", where likeness follows distance most"
        return f"Look first at {' '.join(place)}{why}: {rest}."

    def tables(self) -> dict[str, list[Row]]:
        """Every timestep and block, as it was measured; the comparison with probes."""
        rows = [
            {
                "timestep": cell.timestep,
                "block": cell.block,
                "channels": cell.channels,
                "height": cell.height,
                "width": cell.width,
                "sigma": self.passes.net.noise_level(cell.timestep),
                **figures._asdict(),
                "massive_channels": " ".join(map(str, metric.massive_channels()[:SHOWN])),
            }
            for cell, figures, metric in zip(self.cells, self.found, self.measured, strict=True)
        ]
        agreement = self._agreement()
        return {"cells": rows, "agreement": agreement} if agreement else {"cells": rows}

    def _agreement(self) -> list[Row]:
        """How alike the order of each figure and that of the probes are, over the same cells."""
        places = [(cell.timestep, str(cell.block)) for cell in self.cells]
        shared = [i for i, place in enumerate(places) if place in self.worth]
        if self.worth and len(shared) < 3:
            raise UserError(
                f"probes= has {len(shared)} of these {len(places)} timesteps and blocks, and "
                "orders are compared over 3 or more: measure both at the same timestep= and block="
            )
        if not shared:
            return []
        worth, rows = [self.worth[places[i]] for i in shared], []
        for name in HealthFigures._fields:
            values = [_or_nan(getattr(self.found[i], name)) for i in shared]
            rows.append({"figure": name, "spearman": spearman(values, worth), "cells": len(shared)})
        return rows


def probed_cells(folder: str | Path) -> dict[tuple[int | None, str], float]:
    """What a sweep of probes says each timestep and block is worth."""
    results = read_results(folder)
    cells = (results or {}).get("tables", {}).get("cells", [])
    figure = next((name for name in WORTH if cells and name in cells[0]), None)
    if figure is None:
        what = "no results.json" if results is None else f"task={results['task']}"
        raise UserError(
            f"probes={folder} has {what}: name the folder of a run of evaluate.py task=probe_sweep"
        )
    return {(row["timestep"], str(row["block"])): row[figure] for row in cells}


def _or_least(value: float | int | None) -> float | int:
    return -torch.inf if value is None else value


def _or_nan(value: float | int | None) -> float | int:
    return torch.nan if value is None else value
