"""Feature maps at their own resolution, and bilinear pixels gathered from them on demand."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.bilinear.neighbours import Corners, find_corners, find_neighbours, upsampling

# Float32 numbers blended at once on a CPU: they stay within its cache, in memory that is reused.
CACHED = 1 << 19
TILE = 32  # columns upsampled by one product, which knows only the tokens near them


class Place(NamedTuple):
    """Where one map lies: which grid's tokens, its columns there, and its columns in a pixel."""

    grid: tuple[int, int]
    inside: slice
    pixel: slice


class NativeMaps:
    """Maps of some pictures, read at any pixel as if each map had been upsampled to `size`.

    Maps of one grid stand side by side in one tensor, for a gathered row costs the same when long.
    """

    def __init__(
        self,
        groups: dict[tuple[int, int], Float[Tensor, "pictures _ _"]],
        places: Sequence[Place],
        size: tuple[int, int],
    ) -> None:
        """The tokens of each grid, [pictures, height*width, channels], and the maps among them."""
        self.groups, self.places, self.size = groups, list(places), size
        self.runs = _joined(self.places)
        self._scratch: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @classmethod
    def empty(
        cls,
        pictures: int,
        widths: Sequence[int],
        grids: Sequence[tuple[int, int]],
        size: tuple[int, int],
        dtype: torch.dtype,
    ) -> "NativeMaps":
        """Room for maps of so many channels on these (height, width), in order of concatenation."""
        ends, places, start = dict.fromkeys(grids, 0), [], 0
        for width, grid in zip(widths, grids, strict=True):
            inside = slice(ends[grid], ends[grid] + width)
            places.append(Place(grid, inside, slice(start, start + width)))
            ends[grid], start = inside.stop, start + width
        groups = {
            grid: torch.empty(pictures, grid[0] * grid[1], width, dtype=dtype)
            for grid, width in ends.items()
        }
        return cls(groups, places, size)

    @classmethod
    def of(
        cls,
        images: Sequence[Float[Tensor, "pictures _ _ _"]],
        size: tuple[int, int],
        dtype: torch.dtype,
    ) -> "NativeMaps":
        """Of maps as a backbone gives them, in order of concatenation, on their device."""
        widths = [x.shape[1] for x in images]
        grids = [(x.shape[2], x.shape[3]) for x in images]
        with images[0].device:
            held = cls.empty(len(images[0]), widths, grids, size, dtype)
        for room, x in zip(held.maps, images, strict=True):
            room.copy_(x.flatten(2).mT)
        return held

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())))

    @property
    def channels(self) -> int:
        """Width of a gathered pixel: the channels of all maps."""
        return self.places[-1].pixel.stop

    @property
    def nbytes(self) -> int:
        """Bytes that the maps occupy."""
        return sum(tokens.nbytes for tokens in self.groups.values())

    @property
    def maps(self) -> list[Float[Tensor, "pictures _ _"]]:
        """Every map as [pictures, tokens, channels], a view."""
        return [self.groups[place.grid][:, :, place.inside] for place in self.places]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "NativeMaps":
        """The same maps on another device."""
        groups = {
            grid: tokens.to(device, non_blocking=non_blocking)
            for grid, tokens in self.groups.items()
        }
        return NativeMaps(groups, self.places, self.size)

    def picture(self, index: int) -> "NativeMaps":
        """The maps of one picture, without a copy."""
        groups = {grid: tokens[index : index + 1] for grid, tokens in self.groups.items()}
        return NativeMaps(groups, self.places, self.size)

    def images(self) -> list[Float[Tensor, "pictures _ _ _"]]:
        """Every map as an image, a view: for layers that are applied before upsampling."""
        return [
            tokens.unflatten(1, place.grid).permute(0, 3, 1, 2)
            for tokens, place in zip(self.maps, self.places, strict=True)
        ]

    def gather(
        self, picture: Int[Tensor, "pixels"], y: Int[Tensor, "pixels"], x: Int[Tensor, "pixels"]
    ) -> Float[Tensor, "pixels channels"]:
        """These pixels in float32: what bilinear F.interpolate (no align_corners) holds there."""
        device = next(iter(self.groups.values())).device
        picture, y, x = picture.to(device), y.to(device), x.to(device)
        out = torch.empty(len(y), self.channels, device=device)
        for grid, tokens in self.groups.items():
            corners = find_corners(y, x, grid, self.size)
            rows = corners.tokens + picture * tokens.shape[1]
            step = max(1, CACHED // (4 * tokens.shape[2])) if device.type == "cpu" else len(y)
            for i in range(0, len(y), step):
                part = slice(i, i + step)
                self._blend(grid, rows[:, part], corners, part, out[part])
        return out

    def pixels(
        self, index: int, chunk: int = 4096
    ) -> Iterator[tuple[slice, Float[Tensor, "pixels channels"]]]:
        """All pixels of one picture in row-major order, `chunk` at a time, each with its place."""
        height, width = self.size
        for i in range(0, height * width, chunk):
            place = torch.arange(i, min(i + chunk, height * width))
            picture = torch.full_like(place, index)
            yield slice(i, i + len(place)), self.gather(picture, place // width, place % width)

    @torch.no_grad()
    def linear(
        self, index: int, weight: Float[Tensor, "out channels"], chunk: int = 1024
    ) -> Iterator[tuple[slice, Float[Tensor, "pixels out"]]]:
        """All pixels of one picture times `weight`, some rows of about `chunk` pixels at a time.

        Tokens are multiplied and what comes of them is upsampled: both are linear, they commute.
        """
        height, width = self.size
        products = [self._multiplied(grid, index, weight) for grid in self.groups]
        across = torch.cat([upsampling(x.shape[1], width, x.device) for x in products], dim=1)
        tiles = [(tile, tile.any(0).nonzero()[:, 0]) for tile in across.split(TILE)]
        tiles = [(tile[:, used], used) for tile, used in tiles]
        step = max(1, chunk // width)
        for start in range(0, height, step):
            y = torch.arange(start, min(start + step, height), device=across.device)
            rows = torch.cat([_upsampled_rows(x, y, height) for x in products], dim=1)
            out = torch.cat([tile @ rows[:, used] for tile, used in tiles], dim=1)
            yield slice(start * width, (start + len(y)) * width), out.flatten(0, 1)

    def _multiplied(
        self, grid: tuple[int, int], index: int, weight: Tensor
    ) -> Float[Tensor, "height width out"]:
        """The tokens of one grid times the columns of `weight` that are theirs, in float32."""
        tokens = self.groups[grid][index]
        columns = torch.cat([weight[:, p.pixel] for p in self.places if p.grid == grid], dim=1)
        out = torch.empty(len(tokens), len(weight), device=tokens.device)
        for i in range(0, len(tokens), 2048):  # so many in float32 at once
            torch.mm(tokens[i : i + 2048].float(), columns.T, out=out[i : i + 2048])
        return out.view(*grid, -1)

    def _blend(
        self, grid: tuple[int, int], rows: Tensor, corners: Corners, part: slice, out: Tensor
    ) -> None:
        """The columns of one grid's maps in a few pixels: across in place, then down into `out`."""
        tokens, count = self.groups[grid].flatten(0, 1), rows.numel()
        stored, wide = self._room(grid, count)
        torch.index_select(tokens, 0, rows.flatten(), out=stored)
        four = wide.copy_(stored).view(4, rows.shape[1], -1)
        four[0::2].lerp_(four[1::2], corners.across[part, None])
        for place in self.runs:
            if place.grid == grid:
                top, bottom = four[0, :, place.inside], four[2, :, place.inside]
                torch.lerp(top, bottom, corners.down[part, None], out=out[:, place.pixel])

    def _room(self, grid: tuple[int, int], rows: int) -> tuple[Tensor, Tensor]:
        """Memory for gathered rows as they are stored and in float32; the same at every call."""
        tokens = self.groups[grid]
        if grid not in self._scratch or len(self._scratch[grid][0]) < rows:
            size = (rows, tokens.shape[2])
            self._scratch[grid] = (
                tokens.new_empty(size),
                tokens.new_empty(size, dtype=torch.float),
            )
        stored, wide = self._scratch[grid]
        return stored[:rows], wide[:rows]


def _joined(places: Sequence[Place]) -> list[Place]:
    """Neighbours on one grid that are neighbours in a pixel too, as one: fewer, longer copies."""
    runs: list[Place] = []
    for place in places:
        last = runs[-1] if runs else None
        if last and last.grid == place.grid and last.inside.stop == place.inside.start:
            inside = slice(last.inside.start, place.inside.stop)
            runs[-1] = Place(place.grid, inside, slice(last.pixel.start, place.pixel.stop))
        else:
            runs.append(place)
    return runs


def _upsampled_rows(
    x: Float[Tensor, "cells width out"], y: Int[Tensor, "rows"], height: int
) -> Float[Tensor, "rows width out"]:
    """These rows of pixels, upsampled along the first axis alone."""
    before, after, share = find_neighbours(y, len(x), height)
    return torch.lerp(x[before], x[after], share[:, None, None])
