"""The bilinear formula: the cells before and after each pixel's centre, and how far between it is.

It is that of F.interpolate(mode="bilinear", align_corners=False), to the last bit.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Corners(NamedTuple):
    """The four tokens around each pixel, and where between them it lies."""

    tokens: Int[Tensor, "4 pixels"]  # top left, top right, bottom left, bottom right
    across: Float[Tensor, "pixels"]  # 0 at the left ones, 1 at the right ones
    down: Float[Tensor, "pixels"]


def find_neighbours(
    position: Int[Tensor, "pixels"], cells: int, pixels: int
) -> tuple[Int[Tensor, "pixels"], Int[Tensor, "pixels"], Float[Tensor, "pixels"]]:
    """Along an axis: the cells before and after each pixel's centre, and how far between it is."""
    # The ratio is rounded to float32 before it multiplies, as F.interpolate does.
    ratio = torch.tensor(cells / pixels, dtype=torch.float32, device=position.device)
    source = (ratio * (position + 0.5) - 0.5).clamp(min=0)
    before = source.long().clamp(max=cells - 1)
    return before, (before + 1).clamp(max=cells - 1), source - before


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
    tokens = torch.stack([row * grid[1] + column for row, column in pairs])
    return Corners(tokens, across, down)


def upsampling(
    cells: int, pixels: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "pixels cells"]:
    """Bilinear upsampling along an axis as a matrix: two numbers a row, which sum to 1."""
    pixel = torch.arange(pixels, device=device)
    before, after, share = find_neighbours(pixel, cells, pixels)
    matrix = torch.zeros(pixels, cells, device=device)
    matrix[pixel, before] = 1 - share
    matrix[pixel, after] += share
    return matrix
