"""Pools of the tokens of some pictures, stored or live, read in units."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from diffdict.errors import UserError
from diffdict.features.sources import LiveSource, StoredSource
from diffdict.features.store.shards import Stream

AT_ONCE = 16_384  # tokens read at once


class Pool:
    """Tokens of some pictures; several streams are concatenated in a token, or are more tokens."""

    strip: int  # tokens in a unit
    units: int
    sample: int  # units that suffice to measure mean and scale
    dtype: torch.dtype
    device: torch.device

    def __init__(self, streams: Sequence[Stream], mix: str) -> None:
        """`mix` is concat or stack."""
        check_streams(streams, mix)
        self.streams, self.stack = list(streams), mix == "stack"
        self.positions = streams[0].height * streams[0].width
        channels = [stream.channels for stream in streams]
        self.width = channels[0] if self.stack else sum(channels)
        starts = [0 if self.stack else sum(channels[:i]) for i in range(len(channels))]
        self.columns = [slice(a, a + c) for a, c in zip(starts, channels, strict=True)]

    def read(
        self, units: Int64[Tensor, " units"], step: int | None = None
    ) -> Iterator[tuple[Int64[Tensor, " part"], Shaped[Tensor, "tokens width"]]]:
        """These units, which ascend, and their tokens: `step` units at a time, or a few (None)."""
        step = step or max(1, AT_ONCE // self.strip)
        options = {"dtype": self.dtype, "device": self.device}
        for start in range(0, len(units), step):
            part = units[start : start + step]
            tokens = torch.empty(len(part) * self.strip, self.width, **options)
            self.fill(part, tokens)
            yield part, tokens


class StoredPool(Pool):
    """Tokens of a store: a unit is a strip of consecutive tokens of one picture and stream."""

    device = torch.device("cpu")

    def __init__(
        self, source: StoredSource, pictures: Sequence[int], mix: str, strip: int, sample: int
    ) -> None:
        """`strip` is shortened to a divisor of the picture's tokens; `sample` counts tokens."""
        super().__init__(source.streams, mix)
        self.source, self.dtype = source, source.dtype
        self.pictures = torch.tensor(list(pictures))
        tokens = self.positions
        if source.normalisation.whole_pictures:
            strip = tokens
        self.strip = max(n for n in range(1, min(strip, tokens) + 1) if tokens % n == 0)
        self.strips = self.positions // self.strip  # of a picture
        self.units = len(pictures) * self.strips * (len(self.streams) if self.stack else 1)
        self.sample = max(1, sample // self.strip)

    def fill(self, units: Int64[Tensor, "units"], out: Shaped[Tensor, "tokens width"]) -> None:
        """Copies the tokens of these units, which ascend, one unit after the other."""
        out = out.view(-1, self.strip, self.width)
        for stream, shard, rows, place in self._places(units):
            x = self.source.store.tokens(self.streams[stream].name)[shard]
            x = x.view(-1, self.strip, x.shape[2])
            if not self.source.normalisation.plain:
                out[place, :, self.columns[stream]] = self.source.normalisation(x[rows])
            elif x.shape[2] == self.width:
                torch.index_select(x, 0, rows, out=out[place])
            else:
                out[place, :, self.columns[stream]] = x.index_select(0, rows)

    def owners(self, units: Int64[Tensor, " units"]) -> Int64[Tensor, " tokens"]:
        """The stream of each token that `fill` writes, where streams are more tokens."""
        return (units // (len(self.pictures) * self.strips)).repeat_interleave(self.strip)

    def read_ahead(self, units: Int64[Tensor, "units"]) -> None:
        """Asks the system to read these units from disk before `fill` needs them."""
        for stream, shard, rows, _ in self._places(units):
            self.source.read_ahead(self.streams[stream], shard, rows.tolist(), self.strip)

    def _places(self, units: Tensor) -> Iterator[tuple[int, int, Tensor, slice]]:
        """Stream, shard, rows there, and where they go: for each shard that the units touch."""
        span = len(self.pictures) * self.strips
        stream, unit = units // span, units % span
        picture, k = self.pictures[unit // self.strips], self.source.store.pictures_per_shard
        rows = picture % k * self.strips + unit % self.strips
        keys = zip(stream.tolist(), (picture // k).tolist(), strict=True)
        start = 0
        for (number, shard), group in groupby(keys):
            place = slice(start, start + sum(1 for _ in group))
            for index in [number] if self.stack else range(len(self.streams)):
                yield index, shard, rows[place], place
            start = place.stop


class LivePool(Pool):
    """Tokens that the backbone computes: a unit is a whole picture with all its streams."""

    def __init__(self, source: LiveSource, pictures: Sequence[int], mix: str, sample: int) -> None:
        """`sample` counts pictures: each costs a pass through the backbone."""
        super().__init__(source.streams, mix)
        self.source, self.dtype, self.device = source, source.dtype, source.device
        self.pictures = torch.tensor(list(pictures))
        self.strip = self.positions * (len(self.streams) if self.stack else 1)
        self.units, self.sample = len(pictures), sample

    def fill(self, units: Int64[Tensor, "units"], out: Shaped[Tensor, "tokens width"]) -> None:
        """Computes the tokens of these pictures, a few pictures to a pass."""
        out = out.view(len(units), -1, self.positions, self.width)  # pictures, streams, tokens
        step = self.source.batch_size
        for i in range(0, len(units), step):
            maps = self.source.maps(self.pictures[units[i : i + step]].tolist())
            for number, x in enumerate(maps):
                row = number if self.stack else 0
                out[i : i + step, row, :, self.columns[number]] = x

    def owners(self, units: Int64[Tensor, " units"]) -> Int64[Tensor, " tokens"]:
        """The stream of each token that `fill` writes, where streams are more tokens."""
        picture = torch.arange(len(self.streams)).repeat_interleave(self.positions)
        return picture.repeat(len(units))

    def read_ahead(self, units: Int64[Tensor, "units"]) -> None:
        """Does nothing, since nothing is on disk."""


def check_streams(streams: Sequence[Stream], mix: str) -> None:
    """Refuses streams that cannot share a token or a dictionary."""
    if mix not in ("concat", "stack"):
        raise UserError(f"data.mix is concat or stack, got {mix!r}")
    channels = {s.channels for s in streams} if mix == "stack" else ()
    if len({(s.height, s.width) for s in streams}) > 1 or len(channels) > 1:
        shapes = ", ".join(f"{s.name} {s.channels}×{s.height}×{s.width}" for s in streams)
        rule = "the same height and width" if mix == "concat" else "the same shape"
        raise UserError(
            f"Tokens of several streams need {rule} for data.mix={mix}, got {shapes}: "
            f"train one dictionary for each resolution"
        )
