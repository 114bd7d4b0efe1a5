"""The order of tokens in an epoch: strips of a store, distributed over windows and ranks."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from diffdict.seeds import permutation


class Window(NamedTuple):
    """Strips that are loaded together, and the order in which their tokens are used."""

    units: Int[Tensor, "units"]  # strips to load, ascending
    order: Int[Tensor, "tokens"]  # positions among their tokens, batch after batch
    first: int  # batches to skip, which were used before


class Windows:
    """The schedule of an epoch: strips are permuted, then distributed over windows and ranks.

    It is a function of (seed, epoch, world), so that a resumed run replays nothing.
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
        """Batches in each window of a rank: about equally many, in whole strips if possible."""
        whole = self.strip // math.gcd(
            self.strip, self.batch
        )  # the fewest batches that fill strips
        step = whole if whole <= self.most else 1
        groups = math.ceil(self.batches / step)
        windows = max(1, math.ceil(groups / (self.most // step)))
        bounds = [min(self.batches, groups * i // windows * step) for i in range(windows + 1)]
        return [end - start for start, end in pairwise(bounds)]

    def strips(self, batches: int) -> int:
        """Strips needed for a window of this many batches."""
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
