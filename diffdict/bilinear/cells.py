"""Bilinear upsampling cell by cell: the pixels between four tokens are decided by these four.

A pixel's value lies between the least and the largest of its cell's corners (in floating point
too: torch.lerp never leaves the range of its ends). Corners that are all above a threshold, or all
not above it, therefore decide a whole cell without a look at its pixels.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.bilinear.neighbours import find_neighbours


class PixelRun(NamedTuple):
    """Pixels along an axis that lie between the same two tokens."""

    before: int
    after: int
    start: int  # the first of the pixels
    shares: list[float]  # how far from `before` to `after` each pixel is


class Cells(NamedTuple):
    """Cells of equally many pixels, in row-major order, picture after picture."""

    corners: Int64[Tensor, "4 cells"]  # tokens: top left, top right, bottom left, bottom right
    pixels: Int64[Tensor, "area cells"]  # where its pixels lie in the flat pictures
    down: Float[Tensor, "height _"]  # how far below the top; one column where all cells are alike
    across: Float[Tensor, "width _"]  # how far right of the left

    @property
    def area(self) -> int:
        """Pixels of each cell."""
        return len(self.pixels)

    def some(self, which: Tensor | slice) -> "Cells":
        """A part of the cells."""
        shares = (t if t.shape[1] == 1 else t[:, which] for t in (self.down, self.across))
        return Cells(self.corners[:, which], self.pixels[:, which], *shares)

    def strips(self, most: int) -> Iterator["Cells"]:
        """The same cells in strips of rows of at most so many pixels, or of one row."""
        step = max(1, most // len(self.across))
        pixels = self.pixels.unflatten(0, (len(self.down), len(self.across)))
        for start in range(0, len(self.down), step):
            rows = slice(start, start + step)
            yield self._replace(pixels=pixels[rows].flatten(0, 1), down=self.down[rows])

    def values(
        self, corners: Float[Tensor, "4 entries"], cell: Int64[Tensor, " entries"]
    ) -> Float[Tensor, "area entries"]:
        """The pixels of some cells, one cell an entry, from the values at its corners."""
        down, across = _columns(self.down, cell), _columns(self.across, cell)
        left = torch.lerp(corners[0], corners[2], down)
        right = torch.lerp(corners[1], corners[3], down)
        return torch.lerp(left[:, None], right[:, None], across).flatten(0, 1)


def _columns(table: Tensor, cell: Tensor) -> Tensor:
    return table if table.shape[1] == 1 else table.index_select(1, cell)


@lru_cache(maxsize=8)
def find_cells(
    grid: tuple[int, int],
    size: tuple[int, int],
    pictures: int = 1,
    device: torch.device | str = "cpu",
) -> list[Cells]:
    """All cells of pictures of `size` over grids of tokens, in groups of equal area.

    Every pixel belongs to one cell and has the weights that F.interpolate (bilinear, not
    align_corners) gives it.
    """
    return [
        _tiled(_cells(rows, columns, grid[1], size[1]), grid, size, pictures, device)
        for rows in _by_length(grid[0], size[0])
        for columns in _by_length(grid[1], size[1])
    ]


def upsample(
    tokens: Float[Tensor, "tokens part"], groups: list[Cells]
) -> Float[Tensor, "pixels part"]:
    """The value of every pixel."""
    part = tokens.shape[1]
    out = tokens.new_empty(sum(cells.pixels.numel() for cells in groups), part)
    for cells in groups:
        number = cells.corners.shape[1]
        cell = torch.arange(number, device=tokens.device).repeat_interleave(part)
        corners = tokens[cells.corners].flatten(1)
        out[cells.pixels] = cells.values(corners, cell).unflatten(1, (number, part))
    return out


def _cells(rows: list[PixelRun], columns: list[PixelRun], grid_width: int, width: int) -> Cells:
    top, bottom = (torch.tensor([row[i] for row in rows])[:, None] * grid_width for i in (0, 1))
    left, right = (torch.tensor([column[i] for column in columns]) for i in (0, 1))
    corners = torch.stack([(y + x).flatten() for y in (top, bottom) for x in (left, right)])
    y, x = (_positions(runs) for runs in (rows, columns))
    pixels = y[:, None, :, None] * width + x[:, None, :]
    down, across = (torch.tensor([run.shares for run in runs]).T for runs in (rows, columns))
    number = len(rows), len(columns)
    down = down[:, :, None].expand(-1, *number).flatten(1)
    across = across[:, None].expand(-1, *number).flatten(1)
    return Cells(corners, pixels.flatten(2).flatten(0, 1), _alike(down), _alike(across))


def _positions(runs: list[PixelRun]) -> Int64[Tensor, "length runs"]:
    starts = torch.tensor([run.start for run in runs])
    return torch.arange(len(runs[0].shares))[:, None] + starts


def _alike(table: Tensor) -> Tensor:
    """One column where all are the same: no gather, and blended twice as fast."""
    return table[:, :1].clone() if (table == table[:, :1]).all() else table


def _tiled(
    cells: Cells,
    grid: tuple[int, int],
    size: tuple[int, int],
    pictures: int,
    device: torch.device | str,
) -> Cells:
    """The same cells in every picture."""
    every = torch.arange(pictures)[:, None]
    corners = cells.corners[:, None] + every * (grid[0] * grid[1])
    pixels = cells.pixels[:, None] + every * (size[0] * size[1])
    shares = (t if t.shape[1] == 1 else t.repeat(1, pictures) for t in (cells.down, cells.across))
    tables = corners.flatten(1), pixels.flatten(1), *shares
    return Cells(*(table.to(device) for table in tables))


def _by_length(tokens: int, pixels: int) -> list[list[PixelRun]]:
    groups: dict[int, list[PixelRun]] = {}
    for run in _runs(tokens, pixels):
        groups.setdefault(len(run.shares), []).append(run)
    return list(groups.values())


def _runs(tokens: int, pixels: int) -> Iterator[PixelRun]:
    before, _, shares = find_neighbours(torch.arange(pixels), tokens, pixels)
    start = 0
    for length in before.unique_consecutive(return_counts=True)[1].tolist():
        first, stop = int(before[start]), start + length
        part = shares[start:stop]
        if first == tokens - 1 or not part.any():  # beyond the last token, or right on this one
            yield PixelRun(first, first, start, [0.0] * length)
        else:
            yield PixelRun(first, first + 1, start, part.tolist())
        start = stop
