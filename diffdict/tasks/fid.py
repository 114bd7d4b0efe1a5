"""`task=fid`: how far samples are from real pictures, in the features of any network.

Both sets are pooled to a vector a picture, and the distance is that of the normal laws with their
means and covariances (Heusel et al. 2017); with Inception's last block it is FID. Statistics of
the real pictures are kept, for the next samples.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor, nn

from diffdict import files
from diffdict.backbones.base import Backbone
from diffdict.backbones.inception import CLASSES, SPATIAL, Inception
from diffdict.errors import UserError, at_least
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.pooled import pooled_vectors
from diffdict.features.store.shards import Stream
from diffdict.metrics.frechet import FeatureStatistics, Statistics, frechet_distance
from diffdict.metrics.manifold import precision_recall
from diffdict.metrics.samples.inception_score import InceptionScore
from diffdict.metrics.samples.kernel_distance import ChosenRows, kernel_distance
from diffdict.results.inputs.feature_statistics import (
    StatisticsFile,
    read_statistics,
    write_statistics,
)

OF_NETWORK = ("backbone_sha256", "block", "timestep", "noise")  # what makes features comparable

SCORED = 2048  # the block whose classes Inception's score is of
BALL = 3  # the neighbour that a ball of precision and recall reaches to, as published

BIASED = (
    "{fewest} pictures are no more than the {dim} values of a vector: their covariance lacks "
    "directions, and the distance is biased upwards. Compare it with distances of as many pictures "
    "alone, or give more"
)


class Fid(pl.LightningModule):
    """Measures; what it keeps are the real pictures' statistics."""

    def __init__(
        self,
        net: Backbone,
        real: Mapping | None,
        sampled: Mapping,
        *,
        timestep: Timesteps = None,
        block: Blocks = None,
        noise: Noise = Noise(),  # noqa: B008 - immutable
        compute: str = "fp32",
        statistics: str | None = None,
        dataset_name: str = "",
        samples: str = "",
        root: str = "features",
        kernel_pictures: int = 1000,
    ) -> None:
        """`real`, `sampled`: what tells the sets apart; the real one is None with `statistics`.

        `statistics`: a file instead of the real pictures. `root`: below it those of the real ones
        are kept. `kernel_pictures` of each set are compared by the kernel distance and by precision
        and recall too; 0: none. Of Inception's own vectors there is its score as well.
        """
        super().__init__()
        at_least(0, "model", kernel_pictures=kernel_pictures)
        self.passes = Passes(net, timestep, block, noise, compute)  # no module: never trained
        self.noise = noise
        self.real, self.sampled, self.samples = real, sampled, samples
        if sampled["pictures"] < 2:
            raise UserError(
                f"samples={samples} hold {sampled['pictures']} picture, and a covariance needs 2 "
                "or more: give more"
            )
        self.cells = [Stream(*net.shapes[key[1]], "fp32", *key) for key in self.passes.keys]
        self.kernel_pictures = kernel_pictures
        self.of_real, self.of_samples = (
            nn.ModuleList(FeatureStatistics(cell.channels) for cell in self.cells) for _ in range(2)
        )
        number = 0 if real is None else real["pictures"]
        self.real_rows, self.sample_rows = (
            nn.ModuleList(ChosenRows(pictures, kernel_pictures) for _ in self.cells)
            for pictures in (number, sampled["pictures"])
        )
        self.scored = isinstance(net, Inception) and SCORED in self.passes.blocks
        self.score = InceptionScore(sampled["pictures"], CLASSES) if self.scored else None
        self.folder = Path(root) / "statistics"
        self.known: list[StatisticsFile] | None = None
        if statistics is not None:
            self.known = [self._given(Path(statistics), dataset_name)]
        self.found: list[dict[str, str | int | float | bool | None]] = []

    @property
    def knows_real(self) -> bool:
        """Whether nothing of the real pictures is left to see."""
        return self.known is not None

    def provenance(self, cell: Stream) -> dict[str, object]:
        """All that changes a feature of a real picture, and of how many there are."""
        net = self.passes.net
        facts = {} if self.real is None else dict(self.real)
        return {
            **facts,
            "backbone": net.name,
            "backbone_sha256": net.sha256,
            "timestep": cell.timestep,
            "block": cell.block,
            "noise": None if net.num_timesteps is None else self.noise.facts(),
            "compute": self.passes.compute,
            "kernel_pictures": self.kernel_pictures,
        }

    def path(self, cell: Stream) -> Path:
        """Where statistics of the real pictures are kept."""
        facts = files.json_text(self.provenance(cell), sort_keys=True).encode()
        place = self.real["dataset"], self.real["split"], self.passes.net.name, cell.name
        return self.folder / f"{'-'.join(place)}-{hashlib.sha256(facts).hexdigest()[:12]}.npz"

    def _given(self, path: Path, dataset_name: str) -> StatisticsFile:
        """Statistics that came as a file, of this network's features as far as the file says."""
        if len(self.cells) > 1:
            raise UserError(
                f"statistics={path} are those of one block, and {len(self.cells)} places are asked "
                "for: one timestep= and one block="
            )
        cell = self.cells[0]
        file = read_statistics(path, spatial=cell.block == SPATIAL)
        if len(file.statistics.mu) != cell.channels:
            raise UserError(
                f"statistics={path} are of {len(file.statistics.mu)} values a picture, and block "
                f"{cell.block} of {self.passes.net.name} gives {cell.channels}: give those of the "
                "same network and block"
            )
        theirs, ours = file.provenance or {}, files.as_json_values(self.provenance(cell))
        for key in OF_NETWORK if theirs else ():
            if theirs.get(key) != ours[key]:
                raise UserError(
                    f"statistics={path} are of other features: their {key} is {theirs.get(key)}, "
                    f"here it is {ours[key]}. Leave statistics= out, and they are made"
                )
        if theirs and theirs.get("dataset") != dataset_name:
            raise UserError(
                f"statistics={path} are of {theirs.get('dataset')}, and the pictures asked for are "
                f"{dataset_name}: say dataset={theirs.get('dataset')}, or leave statistics= out"
            )
        return file

    # ------------------------------------------------------------------ what is seen

    def setup(self, stage: str) -> None:
        """All ranks take the real pictures' statistics from files, or none does."""
        if self.known is not None:
            return
        paths = [self.path(cell) for cell in self.cells]
        if self.trainer.strategy.broadcast(all(path.is_file() for path in paths)):
            self.known = [self._kept(path) for path in paths]
            if self.trainer.is_global_zero:
                print(f"Statistics of real pictures: {', '.join(map(str, paths))}")

    @staticmethod
    def _kept(path: Path) -> StatisticsFile:
        try:
            return read_statistics(path)
        except UserError as error:
            raise UserError(f"{error}; {path} is made again once it is deleted") from error

    def on_test_start(self) -> None:
        """Begins anew."""
        for metrics in (self.of_real, self.of_samples, self.real_rows, self.sample_rows):
            for metric in metrics:
                metric.reset()
        if self.scored:
            self.score.reset()

    def test_step(self, batch: Mapping, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Some real pictures, or in the last loader some samples."""
        real = not self.knows_real and dataloader_idx == 0
        sums, rows = self._metrics(real)
        cell_vectors: list[Tensor] = pooled_vectors(
            self.passes, batch["image"], batch["index"].tolist(), self.noise
        )
        for vectors, total, chosen in zip(cell_vectors, sums, rows, strict=True):
            total.update(vectors)
            chosen.update(vectors, batch["index"])
        if self.scored and not real:
            vectors = cell_vectors[self.passes.blocks.index(SCORED)]
            self.score.update(self.passes.net.class_shares(vectors), batch["index"])

    def _metrics(self, real: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        return (self.of_real, self.real_rows) if real else (self.of_samples, self.sample_rows)

    # ------------------------------------------------------------------ what comes of it

    def on_test_epoch_end(self) -> None:
        """The distance at every timestep and block; keeps what the real pictures gave."""
        real_files = self.known or [
            self._keep(cell, statistics.compute(), rows.compute())
            for cell, statistics, rows in zip(self.cells, self.of_real, self.real_rows, strict=True)
        ]
        every = zip(self.cells, real_files, self.of_samples, self.sample_rows, strict=True)
        self.found = [
            self._row(cell, file, statistics.compute(), rows.compute())
            for cell, file, statistics, rows in every
        ]
        for cell, row in zip(self.cells, self.found, strict=True):
            self.log(f"test/{cell.name}/frechet", row["frechet"], sync_dist=True)
            for key in ("kid", "precision", "recall", "inception_score"):
                if row[key] is not None:
                    self.log(f"test/{cell.name}/{key}", row[key], sync_dist=True)
        for row in self.found:
            if row["biased"] and self.trainer.is_global_zero:
                fewest = min(n for n in (row["pictures"], row["sampled"]) if n is not None)
                print(BIASED.format(fewest=fewest, dim=row["dim"]))

    def _keep(self, cell: Stream, statistics: Statistics, rows: Tensor) -> StatisticsFile:
        """What the real pictures gave, written by the first rank."""
        file = StatisticsFile(statistics, self.provenance(cell), rows)
        if self.trainer.is_global_zero:
            write_statistics(self.path(cell), *file)
        return file

    def _row(
        self, cell: Stream, file: StatisticsFile, statistics: Statistics, rows: Tensor
    ) -> dict[str, str | int | float | bool | None]:
        """A cell's line in the table: which features of which pictures, and how far apart."""
        kernel, manifold = None, None
        fewest = 0 if file.rows is None else min(len(file.rows), len(rows))
        if fewest > 1:
            kernel = kernel_distance(file.rows.to(rows.device), rows)
        if fewest > BALL:
            manifold = precision_recall(file.rows.to(rows.device), rows, BALL)
        real = self.real or file.provenance or {}
        counts = [n for n in (real.get("pictures"), self.sampled["pictures"]) if n is not None]
        return {
            "network": self.passes.net.name,
            "weights": self.passes.net.sha256,
            "timestep": cell.timestep,
            "block": cell.block,
            "dim": cell.channels,
            "real": real.get("dataset"),
            "split": real.get("split"),
            "pictures": real.get("pictures"),
            "samples": self.samples,
            "sampled": self.sampled["pictures"],
            "frechet": float(frechet_distance(*file.statistics, *statistics)),
            "biased": min(counts) <= cell.channels,
            "kid": kernel and kernel.value,
            "kid_error": kernel and kernel.error,
            "kid_pictures": None if kernel is None else fewest,
            "precision": manifold and manifold.precision,
            "recall": manifold and manifold.recall,
            "inception_score": self.score.compute()
            if self.scored and cell.block == SCORED
            else None,
        }

    def tables(self) -> dict[str, list[dict[str, str | int | float | bool | None]]]:
        """Every timestep and block, as it was measured."""
        return {"cells": self.found}
