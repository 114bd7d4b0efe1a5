"""`task=probe_sweep`: a linear probe for every timestep and block, in one pass over the features.

The pictures come once: those to fit on add up, those held out choose each probe's ridge and then
add up too, and the test pictures say what the probes are worth.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
from torch import nn
from torchmetrics import Metric

from diffdict.classifiers.attributes.attribute_sweep import AttributeSweep
from diffdict.errors import UserError
from diffdict.features.codes.pooled_codes import POOLED
from diffdict.features.pixels.data_module import UNLABELLED, ignore_small
from diffdict.features.pooled import PooledPictures, check_classes_seen
from diffdict.features.probes import PixelGram, pixel_gram
from diffdict.features.store.shards import Stream
from diffdict.features.whole_pictures import LabelledPicture
from diffdict.metrics.accuracy import (
    Accuracy,
    AveragePrecision,
    PictureFigures,
    check_prevalence,
    common_classes,
)
from diffdict.metrics.probes import ProbeSums, Readouts
from diffdict.metrics.segmentation import Segmentation, check_protocol

CODED = tuple(f"-{way}" for way in POOLED)  # how blocks end that are a dictionary's codes
CARRIERS = 5  # latents of each class in a table
FIT, CHOOSE, TEST = range(3)  # what a loader's pictures are for
FIGURES = {
    "pixels": "miou",
    "class": "accuracy",
    "presence": "average_precision",
    "attributes": "average_precision",
}


class BestRidge(NamedTuple):
    """The ridge of a probe, and what it was chosen by."""

    ridge: float
    figure: float  # on the pictures held out


class ProbeSweep(pl.LightningModule):
    """Measures; what it learns is a closed form and is not kept."""

    def __init__(
        self,
        num_classes: int,
        cells: Sequence[Mapping],
        ignore_label: int | None = None,
        *,
        target: str = "pixels",
        class_names: Sequence[str] = (),
        noise_levels: Sequence[float | None] | None = None,
        ridges: Sequence[float | int] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        prevalence: Sequence[float | int] = (0.05, 0.95),
        smallest_annotation: int = 20,
        protocol: str = "published",
        attributes: Sequence[Mapping] = (),
        parts: Sequence[Mapping] = (),
        random_orders: int = 0,
        seed: int = 0,
    ) -> None:
        """`cells`: what the maps of the features are, one a timestep and block; `parts`: those of
        a code. `random_orders` of a code's entries are drawn, to compare its parts with.

        `noise_levels`: of each cell the noise's deviation at its timestep, where that is known.
        """
        super().__init__()
        check_protocol(protocol)
        if not ridges or min(ridges) <= 0:
            raise UserError(f"model.ridges are positive numbers, got {list(ridges)}")
        check_prevalence(prevalence)
        self.cells = [Stream(**cell) for cell in cells]
        self.noise_levels = noise_levels or [None] * len(self.cells)
        self.classes, self.ignore_label = num_classes, ignore_label
        self.class_names = list(class_names) or list(map(str, range(num_classes)))
        self.target, self.figure = target, FIGURES[target]
        self.ridges, self.smallest, self.protocol = list(ridges), smallest_annotation, protocol
        self.prevalence = prevalence
        self.attribute_sweep: AttributeSweep | None = None
        if target == "attributes":
            self.attribute_sweep = AttributeSweep(
                self.cells, attributes, parts, self.ridges, random_orders, seed
            )
            return
        self.sums = nn.ModuleList(ProbeSums(cell.channels, num_classes) for cell in self.cells)
        self.tried = nn.ModuleList(self._metric(len(ridges)) for _ in self.cells)
        self.tested = nn.ModuleList(self._metric(1) for _ in self.cells)
        self.chosen: list[BestRidge] = []
        self.found: list[float] = []
        self.of_pictures: list[PictureFigures] = []  # of the test; none for target=pixels
        self._part, self._readouts = FIT, []

    def _metric(self, heads: int) -> nn.Module:
        """What measures so many read-outs of one map."""
        if self.target == "pixels":
            single = lambda: Segmentation(self.classes, self.ignore_label)  # noqa: E731
            return nn.ModuleList(single() for _ in range(heads))
        kind = Accuracy if self.target == "class" else AveragePrecision
        return kind(self.classes, heads)

    def test_step(
        self, batch: LabelledPicture | PooledPictures, batch_idx: int, dataloader_idx: int = FIT
    ) -> None:
        """One picture, or several pooled ones, for what their loader's pictures are for."""
        if self.attribute_sweep is not None:
            self.attribute_sweep.update(dataloader_idx, batch)
            return
        if dataloader_idx != self._part:
            self._part = dataloader_idx
            self._solve(dataloader_idx)
        pooled = isinstance(batch, PooledPictures)
        if dataloader_idx != FIT:
            metrics = self.tried if dataloader_idx == CHOOSE else self.tested
            (self._read_pooled if pooled else self._read)(batch, metrics)
        if dataloader_idx != TEST:
            (self._add_pooled if pooled else self._add)(batch)

    def _add(self, batch: LabelledPicture) -> None:
        """The picture's pixels to every map's sums."""
        ignored = UNLABELLED if self.ignore_label is None else self.ignore_label
        mask = ignore_small(batch.mask[None], self.ignore_label, self.smallest)[0]
        grams: dict[tuple[int, int], PixelGram] = {}
        for sums, place, tokens in zip(self.sums, batch.maps.places, batch.maps.maps, strict=True):
            grid = place.grid
            if grid not in grams:
                grams[grid] = pixel_gram(mask.to(tokens.device), grid, self.classes, ignored)
            sums.update(tokens[0], *grams[grid])

    def _add_pooled(self, batch: PooledPictures) -> None:
        """The pictures, one token each, to every map's sums; of one class each only known ones."""
        known = batch.truth.any(1) if self.target == "class" else slice(None)
        for sums, vectors in zip(self.sums, batch.vectors, strict=True):
            sums.add_rows(vectors[known], batch.truth[known])

    def _solve(self, part: int) -> None:
        """Probes of all ridges, to choose from; then those of the ridges that were chosen."""
        if part == CHOOSE and self.target != "pixels":
            self._check_classes()
        if part == TEST:
            for tried in self.tried:
                figures = self._figures(tried)
                best = max(range(len(figures)), key=figures.__getitem__)
                self.chosen.append(BestRidge(self.ridges[best], figures[best]))
        choices = [[chosen.ridge] for chosen in self.chosen] or [self.ridges] * len(self.cells)
        several = self.target == "presence"  # classes of one picture
        self._readouts: list[Readouts] = [
            statistics.detectors(ridges) if several else statistics.discriminants(ridges)
            for statistics, ridges in zip(
                (sums.compute() for sums in self.sums), choices, strict=True
            )
        ]

    def _check_classes(self) -> None:
        """Refuses pictures that say nothing of the classes; says which were never seen."""
        sums = self.sums[0].compute()
        shown, pictures = sums.cross[-1].cpu(), float(sums.second[-1, -1])
        if self.target == "class":
            check_classes_seen(shown, self.class_names, self.ignore_label)
            return
        counted = common_classes(shown, pictures, self.prevalence)
        if not counted.any():
            raise UserError(
                f"No class is in {self.prevalence[0]:g} to {self.prevalence[1]:g} of the "
                f"{pictures:.0f} pictures fitted on: give more with dataset.train_pictures=, or "
                "widen model.prevalence"
            )
        for metric in (*self.tried, *self.tested):
            metric.count_only(counted)

    def _read(self, batch: LabelledPicture, metrics: nn.ModuleList) -> None:
        """What the probes say of a picture, beside its labels."""
        size, places = tuple(batch.mask.shape), batch.maps.places
        every = zip(self._readouts, batch.maps.maps, places, metrics, strict=True)
        for readouts, tokens, place, several in every:
            labels = readouts.labels(tokens[0], place.grid, size)
            for one, prediction in zip(several, labels, strict=True):
                one.update(prediction, batch.mask)

    def _read_pooled(self, batch: PooledPictures, metrics: nn.ModuleList) -> None:
        """What the probes say of some pictures, beside their classes."""
        for readouts, vectors, metric in zip(self._readouts, batch.vectors, metrics, strict=True):
            metric.update(readouts.scores(vectors), batch.truth)

    def _figures(self, metric: nn.Module) -> list[float]:
        """What each read-out is worth."""
        if self.target == "pixels":
            return [one.compute().miou(self.protocol) for one in metric]
        return metric.compute().mean

    def on_test_start(self) -> None:
        """Begins anew."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
        self._part, self._readouts, self.chosen = FIT, [], []
        self.of_pictures = []

    def on_test_epoch_end(self) -> None:
        """The figures of every timestep and block."""
        if self.attribute_sweep is not None:
            self.log_dict(self.attribute_sweep.compute())
            return
        if self.target == "pixels":
            self.found = [self._figures(metric)[0] for metric in self.tested]
        else:
            self.of_pictures = [metric.compute() for metric in self.tested]
            self.found = [figures.mean[0] for figures in self.of_pictures]
        for cell, chosen, figure in zip(self.cells, self.chosen, self.found, strict=True):
            self.log(f"val/{cell.name}/{self.figure}", chosen.figure)
            self.log(f"test/{cell.name}/{self.figure}", figure)
        for cell, figures in zip(self.cells, self.of_pictures, strict=False):
            self.log(f"test/{cell.name}/{self.figure}_random", figures.chance)

    def tables(self) -> dict[str, list[dict[str, str | int | float | bool | None]]]:
        """Every timestep and block, as it was measured; of whole pictures every class too."""
        if self.attribute_sweep is not None:
            return self.attribute_sweep.tables()
        rows = [
            {
                "timestep": cell.timestep,
                "block": cell.block,
                "channels": cell.channels,
                "height": cell.height,
                "width": cell.width,
                "sigma": sigma,
                "ridge": chosen.ridge,
                f"val_{self.figure}": chosen.figure,
                self.figure: figure,
            }
            for cell, sigma, chosen, figure in zip(
                self.cells, self.noise_levels, self.chosen, self.found, strict=True
            )
        ]
        for row, figures in zip(rows, self.of_pictures, strict=False):
            row |= {"standard_error": figures.error[0], "chance": figures.chance}
        tables = {"cells": rows, "latents": self._latent_rows()}
        tables["classes"] = [
            row
            for cell, figures in zip(self.cells, self.of_pictures, strict=False)
            for row in self._class_rows(cell, figures)
        ]
        return {name: rows for name, rows in tables.items() if rows}

    def _latent_rows(self) -> list[dict]:
        """Of codes the latents that raise a class' score most in its own pictures."""
        rows = []
        for cell, readouts, sums in zip(self.cells, self._readouts, self.sums, strict=True):
            if not (isinstance(cell.block, str) and cell.block.endswith(CODED)):
                continue
            shares = sums.compute().contributions(readouts.weight[0])
            for name, class_shares in zip(self.class_names, shares, strict=True):
                values, latents = class_shares.topk(min(CARRIERS, len(class_shares)))
                rows += [
                    {
                        "timestep": cell.timestep,
                        "block": cell.block,
                        "class": name,
                        "latent": latent,
                        "raises_score": value,
                    }
                    for latent, value in zip(latents.tolist(), values.tolist(), strict=True)
                ]
        return rows

    def _class_rows(self, cell: Stream, figures: PictureFigures) -> list[dict]:
        """Of each class the test pictures that show it, and how well it is told."""
        figure = "recall" if self.target == "class" else self.figure
        place = {"timestep": cell.timestep, "block": cell.block}
        fitted = self.sums[0].compute().cross[-1].long().tolist()
        each = zip(self.class_names, fitted, figures.pictures, figures.each[0], strict=True)
        rows = [
            {**place, "class": name, "train_pictures": train_pictures, "pictures": n, figure: value}
            for name, train_pictures, n, value in each
        ]
        if self.target == "presence":
            for row, counted in zip(rows, figures.counted, strict=True):
                row["in_mean"] = counted
        return rows
