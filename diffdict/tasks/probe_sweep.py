"""`task=probe_sweep`: a linear probe for every timestep and block, in one pass over the features.

The pictures come once: those to fit on add up, those held out choose each probe's ridge and then
add up too, and the test pictures say what the probes are worth.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
from torch import nn
from torchmetrics import Metric

from diffdict.errors import UserError
from diffdict.features.labelled import LabelledPicture
from diffdict.features.pixels import UNLABELLED, ignore_small
from diffdict.features.probes import Lie, lie
from diffdict.features.shards import Stream
from diffdict.metrics.discriminant import ProbeSums, Readouts
from diffdict.metrics.segmentation import Segmentation, check_protocol

FIT, CHOOSE, TEST = range(3)  # what a loader's pictures are for


class Chosen(NamedTuple):
    """The ridge of a probe, and what it was chosen by."""

    ridge: float
    miou: float  # on the pictures held out


class ProbeSweep(pl.LightningModule):
    """Measures; what it learns is a closed form and is not kept."""

    def __init__(
        self,
        num_classes: int,
        cells: Sequence[Mapping],
        ignore_label: int | None = None,
        *,
        ridges: Sequence[float | int] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        smallest_annotation: int = 20,
        protocol: str = "published",
    ) -> None:
        """`cells`: what the maps of the features are, one a timestep and block."""
        super().__init__()
        check_protocol(protocol)
        if not ridges or min(ridges) <= 0:
            raise UserError(f"model.ridges are positive numbers, got {list(ridges)}")
        self.cells = [Stream(**cell) for cell in cells]
        self.classes, self.ignore_label = num_classes, ignore_label
        self.ridges, self.smallest, self.protocol = list(ridges), smallest_annotation, protocol
        measure = lambda: Segmentation(num_classes, ignore_label)  # noqa: E731
        self.sums = nn.ModuleList(ProbeSums(cell.channels, num_classes) for cell in self.cells)
        self.tried = nn.ModuleList(nn.ModuleList(measure() for _ in ridges) for _ in self.cells)
        self.tested = nn.ModuleList(measure() for _ in self.cells)
        self.chosen: list[Chosen] = []
        self.found: list[float] = []
        self._part, self._readouts = FIT, []

    def test_step(self, batch: LabelledPicture, batch_idx: int, dataloader_idx: int = FIT) -> None:
        """One picture, for what its loader's pictures are for."""
        if dataloader_idx != self._part:
            self._part = dataloader_idx
            self._solve(dataloader_idx)
        if dataloader_idx != FIT:
            self._read(batch, self.tried if dataloader_idx == CHOOSE else self.tested)
        if dataloader_idx != TEST:
            self._add(batch)

    def _add(self, batch: LabelledPicture) -> None:
        """The picture's pixels to every map's sums."""
        ignored = UNLABELLED if self.ignore_label is None else self.ignore_label
        mask = ignore_small(batch.mask[None], self.ignore_label, self.smallest)[0]
        known: dict[tuple[int, int], Lie] = {}
        for sums, place, tokens in zip(self.sums, batch.maps.places, batch.maps.maps, strict=True):
            if place.grid not in known:
                known[place.grid] = lie(mask.to(tokens.device), place.grid, self.classes, ignored)
            sums.update(tokens[0], *known[place.grid])

    def _solve(self, part: int) -> None:
        """Probes of all ridges, to choose from; then those of the ridges that were chosen."""
        if part == TEST:
            for tried in self.tried:
                mious = [one.compute().miou(self.protocol) for one in tried]
                best = max(range(len(mious)), key=mious.__getitem__)
                self.chosen.append(Chosen(self.ridges[best], mious[best]))
        own = [[chosen.ridge] for chosen in self.chosen] or [self.ridges] * len(self.cells)
        self._readouts: list[Readouts] = [
            sums.compute().discriminants(ridges)
            for sums, ridges in zip(self.sums, own, strict=True)
        ]

    def _read(self, batch: LabelledPicture, metrics: nn.ModuleList) -> None:
        """What the probes say of a picture, beside its labels."""
        size, places = tuple(batch.mask.shape), batch.maps.places
        every = zip(self._readouts, batch.maps.maps, places, metrics, strict=True)
        for readouts, tokens, place, metric in every:
            labels = readouts.labels(tokens[0], place.grid, size)
            several = metric if isinstance(metric, nn.ModuleList) else [metric]
            for one, said in zip(several, labels, strict=True):
                one.update(said, batch.mask)

    def on_test_start(self) -> None:
        """Begins anew."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
        self._part, self._readouts, self.chosen = FIT, [], []

    def on_test_epoch_end(self) -> None:
        """The figures of every timestep and block."""
        self.found = [metric.compute().miou(self.protocol) for metric in self.tested]
        for cell, chosen, miou in zip(self.cells, self.chosen, self.found, strict=True):
            self.log(f"val/{cell.name}/miou", chosen.miou)
            self.log(f"test/{cell.name}/miou", miou)

    def tables(self) -> dict[str, list[dict[str, str | int | float | None]]]:
        """Every timestep and block, as it was measured."""
        rows = [
            {
                "timestep": cell.timestep,
                "block": cell.block,
                "channels": cell.channels,
                "height": cell.height,
                "width": cell.width,
                "ridge": chosen.ridge,
                "val_miou": chosen.miou,
                "miou": miou,
            }
            for cell, chosen, miou in zip(self.cells, self.chosen, self.found, strict=True)
        ]
        return {"cells": rows}
