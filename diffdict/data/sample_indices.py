"""Numbers of samples to come, in shards that several ranks share out."""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from jaxtyping import Int
from torch import Tensor

from diffdict.errors import UserError


class Shards:
    """Samples 0 … number-1 cut into ranges of one size; the last may be shorter."""

    def __init__(self, number: int, size: int) -> None:
        if number < 1 or size < 1:
            raise UserError(
                f"Samples come one or more at a time: data.number={number} data.shard_size={size}"
            )
        self.number, self.size = number, size
        self.ranges = [range(at, min(at + size, number)) for at in range(0, number, size)]

    def of(self, index: int) -> range:
        """The range that a sample lies in."""
        return self.ranges[index // self.size]

    def batches(
        self, rank: int, world: int, done: Callable[[range], bool], size: int
    ) -> list[range]:
        """A rank's share: of every world-th shard what is not done; no batch crosses a shard."""
        missing = [shard for shard in self.ranges[rank::world] if not done(shard)]
        return [shard[at : at + size] for shard in missing for at in range(0, len(shard), size)]


def check_batch_size(size: int) -> None:
    """Nothing, or that there has to be a sample in a batch."""
    if size < 1:
        raise UserError(f"data.batch_size must be at least 1, got {size}")


@runtime_checkable
class HasNumber(Protocol):
    """What samples are drawn from, where it says how many they are."""

    number: int | None  # None: as many as are asked for


def number_of_samples(number: int | None, condition: HasNumber | None) -> int:
    """How many are drawn: as many as the condition has rows, or the number asked for."""
    rows = None if condition is None else condition.number
    if number is None and rows is None:
        raise UserError("data.number says how many samples are drawn, got null: data.number=64")
    if None not in (number, rows) and number != rows:
        raise UserError(
            f"The condition has {rows} rows, a sample each, and data.number={number} is asked for: "
            f"data.number=null, or other condition.* settings"
        )
    return rows if number is None else number


class IndexLoader:
    """Batches of sample indices; no torch DataLoader, for Lightning re-deals those."""

    def __init__(self, batches: list[range]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Int[Tensor, " batch"]]:
        return (torch.tensor(batch, dtype=torch.int64) for batch in self.batches)


class SampleIndices(pl.LightningDataModule):
    """Which samples this rank draws: every world-th shard, without those that are finished."""

    def __init__(
        self,
        number: int | None,
        shard_size: int = 256,
        batch_size: int = 64,
        condition: HasNumber | None = None,
    ) -> None:
        """A batch never crosses a shard. `condition`: what the samples are drawn from."""
        super().__init__()
        check_batch_size(batch_size)
        self.shards = Shards(number_of_samples(number, condition), shard_size)
        self.batch_size = batch_size

    @property
    def facts(self) -> dict[str, int]:
        """What the task's constructor is told."""
        return {"number": self.shards.number, "shard_size": self.shards.size}

    def predict_dataloader(self) -> IndexLoader:
        """This rank's batches; an empty one where none is left, for all ranks come to the end."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        done = self.trainer.lightning_module.done
        batches = self.shards.batches(rank, world, done, self.batch_size)
        return IndexLoader(batches or [range(0)])


class MeasuredIndices(SampleIndices):
    """Samples that are drawn to be measured, and not kept: every world-th batch is a rank's."""

    def __init__(self, number: int, batch_size: int = 16) -> None:
        """A batch is what ranks share out."""
        super().__init__(number, batch_size, batch_size)

    def test_dataloader(self) -> IndexLoader:
        """This rank's batches; an empty one where there is none, for all ranks come to the end."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = self.shards.batches(rank, world, lambda _: False, self.batch_size)
        return IndexLoader(batches or [range(0)])
