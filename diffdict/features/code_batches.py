"""Codes of pictures in shuffled batches: one vector a picture, made once and held in memory."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from rich.progress import track
from torch import Tensor

from diffdict.data.batches.resumable import ResumableLoader
from diffdict.data.images import Part, evaluation_batches, training_batches
from diffdict.errors import UserError, at_least
from diffdict.features.base import FeatureDataModule
from diffdict.features.sources import Source
from diffdict.features.tokens.data_module import hold_out
from diffdict.features.whole_pictures import nonfinite_message
from diffdict.seeds import permutation

CHUNK = 512  # pictures that are read together


class CodeBatch(NamedTuple):
    """Some pictures' codes, and what is known of the pictures."""

    codes: Float32[Tensor, "batch code"]
    index: Int64[Tensor, " batch"]  # of the pictures in their split
    attributes: Float32[Tensor, "batch attributes"]  # NaN where unknown; none: no column


class ShuffledCodes(ResumableLoader[CodeBatch]):
    """Whole epochs, each in an order of its own; ranks share out the rounds of batches."""

    def __init__(
        self, whole: CodeBatch, pictures: Sequence[int], batch_size: int, seed: int, part: Part
    ) -> None:
        super().__init__(
            seed, {"batch_size": batch_size, "world": part.world, "pictures": len(pictures)}
        )
        self.whole, self.pictures = whole, torch.tensor(list(pictures), dtype=torch.int64)
        self.batch_size, self.part = batch_size, part

    def _epoch(self, epoch: int) -> list[list[int]]:
        order = permutation(len(self.pictures), self.seed, epoch).tolist()
        return training_batches(order, self.batch_size, self.part, drop_last=True)

    def __len__(self) -> int:
        return len(self.pictures) // (self.batch_size * self.part.world)

    def batches(self, epoch: int, taken: int) -> Iterator[CodeBatch]:
        """Rows of what is held."""
        for places in self._epoch(epoch)[taken:]:
            rows = self.pictures[torch.tensor(places)]
            yield CodeBatch(*(column[rows] for column in self.whole))


class OrderedCodes:
    """All codes in order, this rank's part."""

    def __init__(
        self, whole: CodeBatch, pictures: Sequence[int], batch_size: int, part: Part
    ) -> None:
        self.whole, self.pictures = whole, torch.tensor(list(pictures), dtype=torch.int64)
        self.places = evaluation_batches(len(pictures), batch_size, part)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[CodeBatch]:
        for places in self.places:
            rows = self.pictures[torch.tensor(places)]
            yield CodeBatch(*(column[rows] for column in self.whole))


class CodeBatches(FeatureDataModule):
    """Codes of the training pictures, some of them held out, and of the test's."""

    def __init__(
        self,
        *,
        batch_size: int = 128,
        seed: int = 0,
        val_pictures: int | None = None,
        val_fraction: float = 0.05,
        **features: object,
    ) -> None:
        """`features` are the arguments of FeatureDataModule: one block, a map of one position."""
        super().__init__(**features)
        at_least(1, "data", batch_size=batch_size)
        self.batch_size, self.seed = batch_size, seed
        self.val_pictures, self.val_fraction = val_pictures, val_fraction
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._held: dict[str, CodeBatch] = {}

    @property
    def facts(self) -> dict[str, object]:
        """The code's width, mean and deviation over the training pictures, and the attributes."""
        facts, (mean, std) = self._source("train").facts, self._moments
        attributes = self.codes("train").attributes[self._split()[0]]
        return {
            **facts,
            "code": len(mean),
            "code_mean": mean,
            "code_std": std,
            # of each attribute its mean where it is known to learn from; NaN: nowhere
            "attribute_means": attributes.nanmean(0).tolist(),
        }

    @cached_property
    def _moments(self) -> tuple[Float32[Tensor, " code"], Float32[Tensor, " code"]]:
        """Of every entry over all training pictures, none of them mirrored; std is unbiased."""
        codes = self.codes("train").codes
        if len(codes) < 2:
            raise UserError(
                f"Codes are normalised by their deviation, which takes 2 training pictures or more,"
                f" got {len(codes)}: give more with dataset.train_pictures="
            )
        total = codes.double()
        return total.mean(0).float(), total.std(0).float()

    def codes(self, split: str) -> CodeBatch:
        """Those of a whole split, read or made once."""
        if split not in self._held:
            self._held[split] = read_codes(self._source(split))
        return self._held[split]

    def setup(self, stage: str | None = None) -> None:
        """Opens what a test needs, so that what is missing is said at once."""
        if stage == "test":
            self._source("test")

    def train_dataloader(self) -> ShuffledCodes:
        """Whole batches of the pictures to learn from."""
        part, pictures = Part(*self._rank_and_world()), self._split()[0]
        whole = self.codes("train")
        loader = ShuffledCodes(whole, pictures, self.batch_size, self.seed, part)
        return self._start(loader, f"{len(pictures)} training pictures")

    def val_dataloader(self) -> OrderedCodes | list:
        """The training pictures held out."""
        pictures = self._split()[1]
        return self._ordered("train", pictures) if pictures else []

    def test_dataloader(self) -> OrderedCodes:
        """The test split."""
        return self._ordered("test", range(len(self._source("test"))))

    def _split(self) -> tuple[list[int], list[int]]:
        """Training pictures to learn from, and those held out."""
        count = len(self._source("train"))
        return hold_out(count, self.val_pictures, self.val_fraction)

    def _ordered(self, split: str, pictures: Sequence[int]) -> OrderedCodes:
        part = Part(*self._rank_and_world())
        if len(pictures) < part.world:
            raise UserError(
                f"{self.sources.dataset_name} has {len(pictures)} pictures to measure with "
                f"({split}), fewer than the {part.world} ranks: trainer.devices="
                f"{max(1, len(pictures))}"
            )
        return OrderedCodes(self.codes(split), pictures, self.batch_size, part)


def read_codes(source: Source) -> CodeBatch:
    """Every code of a source, and the attributes of its pictures where they have some."""
    stream = source.streams[0]
    if len(source.streams) > 1 or (stream.height, stream.width) != (1, 1):
        raise UserError(
            f"A code is one vector a picture, got {len(source.streams)} block(s), the first a map "
            f"of {stream.height}×{stream.width}: block=code of backbone=pdae"
        )
    codes = torch.empty(len(source), stream.channels)
    attributes = torch.empty(len(source), len(source.facts.get("attributes") or ()))
    starts = range(0, len(source), CHUNK)
    for at in track(starts, "Codes", disable=len(starts) < 2):
        rows = range(at, min(at + CHUNK, len(source)))
        codes[rows.start : rows.stop] = source.maps(list(rows))[0][:, 0].float()
        if attributes.shape[1]:
            for row in rows:
                attributes[row] = source.attributes(row)
    broken = ~codes.isfinite().all(1)
    if broken.any():
        raise UserError(nonfinite_message(source, int(broken.nonzero()[0]), stream))
    return CodeBatch(codes, torch.arange(len(source)), attributes)
