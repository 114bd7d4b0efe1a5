"""The order of what is shuffled: seeds, windows of strips, and loaders that can be resumed."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

Batch = TypeVar("Batch")
MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """One 63-bit seed of several integers (chained SplitMix64, Steele et al. 2014)."""
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 1


def permutation(count: int, *words: int, dtype: torch.dtype = torch.int64) -> Int[Tensor, "count"]:
    """A permutation that depends on nothing but the count and these integers."""
    generator = torch.Generator().manual_seed(mix(*words))
    return torch.randperm(count, generator=generator, dtype=dtype)


class Window(NamedTuple):
    """What is loaded together, and the order in which it leaves."""

    units: Int[Tensor, "units"]  # strips to load, ascending
    order: Int[Tensor, "tokens"]  # positions among their tokens, batch after batch
    first: int  # batches of it that were taken before


class Windows:
    """The schedule of an epoch: strips are permuted and dealt to windows and ranks.

    All of it is a function of (seed, epoch, world), so that nothing is replayed in order to resume.
    """

    def __init__(self, units: int, strip: int, batch: int, window: int, world: int = 1) -> None:
        """`units` strips of `strip` tokens each; a rank holds about `window` tokens at once."""
        self.units, self.strip, self.batch, self.world = units, strip, batch, world
        share = units // world
        self.most = max(1, max(window, strip) // batch)  # batches in a window
        self.batches = share * strip // batch
        self.counts = self._split()
        while (excess := sum(map(self.strips, self.counts)) - share) > 0:
            self.batches -= max(1, excess * strip // (2 * batch))
            self.counts = self._split()

    def _split(self) -> list[int]:
        """Batches in each window of a rank: even numbers, that fill whole strips where they can."""
        whole = self.strip // math.gcd(self.strip, self.batch)  # so many batches fill whole strips
        step = whole if whole <= self.most else 1
        groups = math.ceil(self.batches / step)
        windows = max(1, math.ceil(groups / (self.most // step)))
        bounds = [min(self.batches, groups * i // windows * step) for i in range(windows + 1)]
        return [end - start for start, end in pairwise(bounds)]

    def strips(self, batches: int) -> int:
        """Strips that a window of so many batches needs."""
        return math.ceil(batches * self.batch / self.strip)

    def walk(self, seed: int, epoch: int, rank: int = 0, taken: int = 0) -> Iterator[Window]:
        """The windows of one rank from the batch after the first `taken` ones."""
        strips = permutation(self.units, seed, epoch)
        start = 0
        for index, count in enumerate(self.counts):
            size = self.strips(count)
            if taken < count:
                mine = strips[start + rank * size : start + (rank + 1) * size].sort().values
                order = permutation(size * self.strip, seed, epoch, index, rank)
                yield Window(mine, order[: count * self.batch], taken)
            taken = max(0, taken - count)
            start += size * self.world


class ResumableLoader(ABC, Generic[Batch]):
    """Counts what it hands out, so that its data module can resume it in the middle of an epoch."""

    def __init__(self, seed: int, plan: dict[str, int]) -> None:
        """`plan` is what else the order depends on: under another one no epoch is continued."""
        self.seed, self.plan = seed, plan
        self.epoch = self.taken = 0
        self.resumed = False

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def batches(self, epoch: int, taken: int) -> Iterator[Batch]:
        """The batches of an epoch after the first `taken` ones."""

    def __iter__(self) -> Iterator[Batch]:
        if self.taken and not self.resumed:  # the epoch before was left early
            self.epoch, self.taken = self.epoch + 1, 0
        self.resumed = False
        for batch in self.batches(self.epoch, self.taken):
            self.taken += 1
            if self.taken == len(self):  # before the last yield: Lightning never asks again
                self.epoch, self.taken = self.epoch + 1, 0
            yield batch

    def place(self) -> dict:
        """Where the loader stands."""
        return {"seed": self.seed, "epoch": self.epoch, "taken": self.taken, "plan": self.plan}

    def go_to(self, state: dict) -> None:
        """Continues there; under another plan, at the start of that epoch."""
        self.seed, self.epoch, self.taken = state["seed"], state["epoch"], state["taken"]
        self.resumed = True
        changed = [
            f"{name} {state['plan'].get(name)} -> {value}"
            for name, value in self.plan.items()
            if state["plan"].get(name) != value
        ]
        if changed and self.taken:
            self.taken = 0
            warnings.warn(
                f"Epoch {self.epoch} starts again from its recorded seed, "
                f"because its order cannot be continued ({', '.join(changed)}).",
                stacklevel=2,
            )
