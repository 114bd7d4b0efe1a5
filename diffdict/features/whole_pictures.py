"""Whole pictures: their maps at native resolution, and their labels as they are."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Int64
from rich.progress import track
from torch import Tensor

from diffdict.bilinear.maps import NativeMaps
from diffdict.errors import UserError
from diffdict.features.sources import LiveSource, Source
from diffdict.features.store.shards import Stream


class LabelledPicture(NamedTuple):
    """One picture: its maps, not upsampled, and its labels."""

    maps: NativeMaps
    mask: Int64[Tensor, "height width"]
    index: int  # in its split
    other: Int64[Tensor, "height width"] | None = None  # another picture's labels, for a null


class SeenPicture(NamedTuple):
    """One picture: its maps, and its labels where it has some."""

    maps: NativeMaps
    mask: Int64[Tensor, "height width"] | None
    index: int


class SeenPictures:
    """Pictures of a source, one at a time; with their labels where they have some."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[SeenPicture]:
        facts = self.source.facts
        for index in range(len(self)):
            mask = self.source.mask(index).long() if facts["labelled"] else None
            size = (facts["image_size"],) * 2 if mask is None else tuple(mask.shape)
            yield SeenPicture(hold(self.source, [index], size), mask, index)


class LabelledPictureLoader:
    """Labelled pictures of a source, one at a time."""

    def __init__(
        self, source: Source, pictures: Sequence[int], others: Sequence[int] | None = None
    ) -> None:
        """`others`: the pictures whose labels come along, one for each."""
        check_labelled(source)
        self.source, self.pictures, self.others = source, pictures, others

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[LabelledPicture]:
        for place, index in enumerate(self.pictures):
            mask = self.source.mask(index).long()
            maps = hold(self.source, [index], tuple(mask.shape))
            other = None if self.others is None else self.source.mask(self.others[place]).long()
            yield LabelledPicture(maps, mask, index, other)


def hold(source: Source, pictures: Sequence[int], size: tuple[int, int]) -> NativeMaps:
    """The maps of these pictures in memory, filled picture by picture."""
    grids = [(stream.height, stream.width) for stream in source.streams]
    widths = [stream.channels for stream in source.streams]
    native = NativeMaps.empty(len(pictures), widths, grids, size, source.dtype)
    for row, index in enumerate(track(pictures, "Features", disable=len(pictures) == 1)):
        maps = source.maps([index])
        for target, x, stream in zip(native.maps, maps, source.streams, strict=True):
            if not x.isfinite().all():
                raise UserError(nonfinite_message(source, index, stream))
            target[row] = x[0]
    return native


def nonfinite_message(source: Source, index: int, stream: Stream) -> str:
    """What to do about features that are no numbers."""
    if isinstance(source, LiveSource):
        return (
            f"{stream.name} of {source.net.name} holds NaN or infinity for picture {index}: "
            f"try data.dtype=fp32 and data.compute=fp32"
        )
    return (
        f"{stream.name} of picture {index} in {source.store.path} holds NaN or infinity: extract "
        f"it again, with storage=bf16 or fp32 if that is too large a number for fp16"
    )


def check_labelled(source: Source) -> None:
    """Refuses pictures without masks."""
    if not source.facts["labelled"]:
        raise UserError(f"{source.facts['dataset']} has no labels: choose a labelled dataset")
