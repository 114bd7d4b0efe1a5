"""Feature maps kept at native resolution, and bilinear pixels gathered from them on demand."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Pixels blended at once on a CPU: four rows of a 1024-channel map in float32 stay within the cache.
CHUNK = 256


class Corners(NamedTuple):
    """The four tokens around each pixel of a map and how much each of them counts."""

    tokens: Int[Tensor, "4 pixels"]  # position in the flattened grid
    weights: Float[Tensor, "4 pixels"]  # they sum to one


class NativeMaps:
    """Maps of some pictures, read at any pixel as if each map had been upsampled to `size`."""

    def __init__(
        self,
        maps: Sequence[Float[Tensor, "pictures _tokens _channels"]],
        grids: Sequence[tuple[int, int]],
        size: tuple[int, int],
    ) -> None:
        """The maps in their order of concatenation; `grids` are their (height, width)."""
        self.maps, self.grids, self.size = list(maps), list(grids), size

    def __len__(self) -> int:
        return len(self.maps[0])

    @property
    def channels(self) -> int:
        """Width of a gathered pixel: the channels of all maps."""
        return sum(tokens.shape[2] for tokens in self.maps)

    @property
    def nbytes(self) -> int:
        """Bytes that the maps occupy."""
        return sum(tokens.nbytes for tokens in self.maps)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "NativeMaps":
        """The same maps on another device."""
        moved = [tokens.to(device, non_blocking=non_blocking) for tokens in self.maps]
        return NativeMaps(moved, self.grids, self.size)

    def picture(self, index: int) -> "NativeMaps":
        """The maps of one picture, without a copy."""
        return NativeMaps(
            [tokens[index : index + 1] for tokens in self.maps], self.grids, self.size
        )

    def images(self) -> list[Float[Tensor, "pictures _channels _height _width"]]:
        """Every map as an image, a view: for layers that are applied before upsampling."""
        return [
            tokens.unflatten(1, grid).permute(0, 3, 1, 2)
            for tokens, grid in zip(self.maps, self.grids, strict=True)
        ]

    def gather(
        self, picture: Int[Tensor, "pixels"], y: Int[Tensor, "pixels"], x: Int[Tensor, "pixels"]
    ) -> Float[Tensor, "pixels channels"]:
        """These pixels in float32: what bilinear F.interpolate (no align_corners) holds there."""
        device = self.maps[0].device
        picture, y, x = picture.to(device), y.to(device), x.to(device)
        out = torch.empty(len(y), self.channels, device=device)
        step = CHUNK if device.type == "cpu" else max(1, len(y))
        for i in range(0, len(y), step):
            part = slice(i, i + step)
            self._blend(picture[part], y[part], x[part], out[part])
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

    def _blend(self, picture: Tensor, y: Tensor, x: Tensor, out: Tensor) -> None:
        corners, start = {}, 0
        for tokens, grid in zip(self.maps, self.grids, strict=True):
            if grid not in corners:
                corners[grid] = find_corners(y, x, grid, self.size)
            place, weights = corners[grid]
            flat, place = tokens.flatten(0, 1), place + picture * tokens.shape[1]
            mine = out[:, start : start + tokens.shape[2]]
            torch.mul(flat[place[0]], weights[0, :, None], out=mine)
            for corner in (1, 2, 3):
                mine.addcmul_(flat[place[corner]].float(), weights[corner, :, None])
            start += tokens.shape[2]


def find_corners(
    y: Int[Tensor, "pixels"],
    x: Int[Tensor, "pixels"],
    grid: tuple[int, int],
    size: tuple[int, int],
) -> Corners:
    """The four neighbours in a grid of the centres of these pixels of a picture of `size`."""
    top, bottom, down = find_neighbours(y, grid[0], size[0])
    left, right, across = find_neighbours(x, grid[1], size[1])
    pairs = ((top, left), (top, right), (bottom, left), (bottom, right))
    shares = ((1 - down, 1 - across), (1 - down, across), (down, 1 - across), (down, across))
    return Corners(
        torch.stack([row * grid[1] + column for row, column in pairs]),
        torch.stack([vertical * horizontal for vertical, horizontal in shares]),
    )


def find_neighbours(
    position: Int[Tensor, "pixels"], cells: int, pixels: int
) -> tuple[Int[Tensor, "pixels"], Int[Tensor, "pixels"], Float[Tensor, "pixels"]]:
    """Along an axis: the cells before and after each pixel's centre, and how far between it is."""
    # The ratio is rounded to float32 before it multiplies, as F.interpolate does.
    ratio = torch.tensor(cells / pixels, dtype=torch.float32, device=position.device)
    source = (ratio * (position + 0.5) - 0.5).clamp(min=0)
    before = source.long().clamp(max=cells - 1)
    return before, (before + 1).clamp(max=cells - 1), source - before
