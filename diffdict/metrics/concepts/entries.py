"""Which latents are active at which pixels, entry by entry, without any pixels × latents.

A latent that decides alone is looked at in cells that have a corner above its floor. Of ranked
latents a cell needs those alone whose largest corner reaches the k-th largest of all least corners:
the k that stand there are above all others at each of its pixels.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.bilinear.cells import Cells
from diffdict.metrics.concepts.pre_activations import Native, Piece

CORNERS = {"cpu": 2**16}  # cells × latents looked at at once: they stay within a core's cache
VALUES = 2**22  # and pixels × latents among them at most
ELSEWHERE = 2**24  # where a launch costs more than a cache miss
FOLDS = (16, 8, 4)  # latents that share a maximum


class PixelEntries(NamedTuple):
    """Latents that are active at pixels."""

    pixel: Int64[Tensor, " entries"]
    latent: Int64[Tensor, " entries"]
    value: Float[Tensor, " entries"]


def above_pixels(
    tokens: Float[Tensor, "tokens latents"],
    groups: list[Cells],
    floors: Float[Tensor, " latents"],
) -> Iterator[PixelEntries]:
    """All that lies above its floor, from the values at the tokens."""
    step = max(1, CORNERS.get(tokens.device.type, ELSEWHERE) // tokens.shape[1])
    for cells in groups:
        for start in range(0, cells.corners.shape[1], step):
            yield _above_floors(tokens, cells.some(slice(start, start + step)), floors)


def _above_floors(tokens: Tensor, cells: Cells, floors: Tensor) -> PixelEntries:
    corners = _corners(tokens, cells)
    most = torch.maximum(*torch.maximum(corners[:2], corners[2:]))
    cell, latent = (most > floors).nonzero(as_tuple=True)
    values = cells.values(_taken(corners, cell, latent), cell)
    place, entry = (values > floors[latent]).nonzero(as_tuple=True)
    return PixelEntries(cells.pixels[place, cell[entry]], latent[entry], values[place, entry])


def ranked_pixels(
    native: Native, groups: list[Cells], floors: Float[Tensor, " latents"], k: int
) -> Iterator[PixelEntries]:
    """The k largest of every pixel, as torch.topk of the upsampled pre-activations names them."""
    room = CORNERS.get(native.device.type, ELSEWHERE) // native.latents
    for piece in native.bands(below=1):
        for cells in _inside(groups, piece, native):
            for strip in cells.strips(VALUES // native.latents):
                step = max(1, min(room, VALUES // (strip.area * native.latents)))
                for start in range(0, strip.corners.shape[1], step):
                    some = strip.some(slice(start, start + step))
                    yield _largest(piece.tokens, some, floors, k)


def _inside(groups: list[Cells], piece: Piece, native: Native) -> Iterator[Cells]:
    """The cells of a band, by the places that their corners have in it."""
    height, width = native.grid
    rows = len(piece.tokens) // (native.pictures * width)
    for cells in groups:
        picture, inside = cells.corners // (height * width), cells.corners % (height * width)
        top = inside[0] // width
        in_band = (top >= piece.rows.start) & (top < piece.rows.stop)
        corners = picture * (rows * width) + inside - piece.rows.start * width
        yield cells._replace(corners=corners).some(in_band)


def _largest(
    tokens: Float[Tensor, "tokens latents"], cells: Cells, floors: Tensor, k: int
) -> PixelEntries:
    corners = _corners(tokens, cells)
    least = torch.minimum(*torch.minimum(corners[:2], corners[2:]))
    most = torch.maximum(*torch.maximum(corners[:2], corners[2:]))
    able = (most >= _reached_by(least, k)) & (most > floors.min())
    cell, latent = able.nonzero(as_tuple=True)
    counts = able.sum(1)
    slot = torch.arange(len(cell), device=cell.device) - (counts.cumsum(0) - counts)[cell]
    width = int(counts.max())  # a row of candidates for each cell, the short ones filled up
    values = most.new_full((cells.area, len(counts), width), -torch.inf)
    values[:, cell, slot] = cells.values(_taken(corners, cell, latent), cell)
    names = cell.new_zeros(len(counts), width)
    names[cell, slot] = latent
    values, place = values.topk(min(k, width), sorted=False)
    latent = names.expand(cells.area, -1, -1).gather(2, place)
    above = values > floors[latent]
    pixel = cells.pixels[:, :, None].expand_as(latent)
    return PixelEntries(pixel[above], latent[above], values[above])


def _reached_by(least: Float[Tensor, "cells latents"], k: int) -> Float[Tensor, "cells 1"]:
    """What at least k of each cell's latents reach: the k-th largest, or one below it found sooner.

    Where k groups of latents have a maximum of so much, k latents have.
    """
    latents = least.shape[1]
    fold = next((n for n in FOLDS if latents % n == 0 and latents // n >= 2 * k), 1)
    folded = least.unflatten(1, (fold, -1)).amax(1)
    return folded.topk(min(k, latents), sorted=False).values.amin(1, keepdim=True)


def _corners(tokens: Tensor, cells: Cells) -> Float[Tensor, "4 cells part"]:
    return tokens.index_select(0, cells.corners.flatten()).view(4, -1, tokens.shape[1])


def _taken(corners: Tensor, cell: Tensor, latent: Tensor) -> Float[Tensor, "4 entries"]:
    return corners.flatten(1).index_select(1, cell * corners.shape[2] + latent)


def token_entries(
    native: Native, floors: Float[Tensor, " latents"], k: int | None
) -> Iterator[PixelEntries]:
    """The same where a pixel is a token, and nothing is upsampled."""
    height, width = native.grid
    every = torch.arange(native.pictures * height * width, device=native.device)
    grid = every.view(native.pictures, height, width)
    for part, rows, tokens in native.active(floors, k):
        token, latent = (tokens > -torch.inf).nonzero(as_tuple=True)
        pixel = grid[:, rows].flatten()[token]
        yield PixelEntries(pixel, latent + (part.start or 0), tokens[token, latent])


def count_entries(
    entries: Iterable[PixelEntries],
    labels: Int64[Tensor, "sets pixels"],
    thresholds: Float[Tensor, "latents thresholds"],
    out: Int64[Tensor, "sets thresholds classes latents"],
) -> None:
    """Adds the entries that are above each (ascending) threshold, to each set of labels."""
    sets, number, classes, latents = out.shape
    levels = out.new_zeros(sets, number + 1, classes, latents)
    columns = thresholds.T.contiguous()
    for pixel, latent, value in entries:
        level = torch.zeros_like(latent)  # how many thresholds the entry is above
        for column in columns:
            level += value > column.index_select(0, latent)
        places, one = level.mul_(classes * latents).add_(latent), torch.ones_like(latent)
        for label_map, table in zip(labels, levels, strict=True):
            where = torch.addcmul(places, label_map.index_select(0, pixel), one, value=latents)
            table.view(-1).index_add_(0, where, one)
    out += levels.flip(1).cumsum(1).flip(1)[:, 1:]
