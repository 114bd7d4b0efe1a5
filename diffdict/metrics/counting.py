"""Exact counts latent × class of the pixels at which latents are active, at the masks' resolution.

Nothing of size pixels × latents is made. A latent that decides alone is counted by the corners of
its cells (see cells.py): whole cells by one matrix product with the cells' class counts, and only
cells that a threshold crosses pixel by pixel. Of ranked latents a cell needs those alone whose
largest corner reaches the k-th largest of all least corners: the k that stand there are above all
others at each of its pixels.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.metrics.cells import Cells
from diffdict.metrics.native import Native, Piece

ENTRIES = {"cpu": 2**18}  # pixels × entries at once: they stay within a core's cache
CORNERS = {"cpu": 2**16}  # cells × latents ranked at once
VALUES = 2**22  # and pixels × latents among them at most
ELSEWHERE = 2**24  # either, where a launch costs more than a cache miss
EXACT = 256  # integers to here enter a matrix product unchanged, even one that rounds to bf16
SUMMED = 2**24  # and come out as float32 sums to here


class Labelled(NamedTuple):
    """Cells and what lies in them."""

    cells: Cells
    labels: Int64[Tensor, "area cells"]
    counts: Float[Tensor, "classes cells"]  # pixels of each class
    several: list[tuple[Tensor, Tensor]]  # of a cell of several classes: which, and pixels of each


def label_cells(
    groups: list[Cells], labels: Int64[Tensor, " pixels"], classes: int
) -> list[Labelled]:
    """The cells with their labels; those of a single class apart from those of several."""
    marked = []
    for cells in groups:
        here = labels[cells.pixels]
        exact = cells.area <= EXACT and labels.numel() <= SUMMED
        dtype = torch.float32 if exact else torch.float64
        counts = torch.zeros(classes, here.shape[1], dtype=dtype, device=here.device)
        counts.scatter_add_(0, here, torch.ones_like(here, dtype=dtype))
        single = (counts > 0).sum(0) == 1
        for which in (single.nonzero()[:, 0], (~single).nonzero()[:, 0]):
            if len(which):
                own, number = here[:, which], counts[:, which]
                mixed = not single[which[0]]
                several = [_one_hot(*pair) for pair in zip(own.T, number.T, strict=True)]
                marked.append(Labelled(cells.some(which), own, number, several if mixed else []))
    return marked


def _one_hot(labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    present = counts.nonzero()[:, 0]
    return present, (labels == present[:, None]).float()


def count_above(
    native: Native,
    marked: list[Labelled],
    thresholds: Float[Tensor, "latents thresholds"],
    out: Int64[Tensor, "thresholds classes latents"],
) -> None:
    """Adds the pixels at which each latent is above each of its thresholds."""
    for part, _, tokens in native.parts():
        for i, threshold in enumerate(thresholds[part].T.contiguous()):
            out[i, :, part] += _above(tokens, threshold, marked, out.shape[1])


def _above(tokens: Tensor, threshold: Tensor, marked: list[Labelled], classes: int) -> Tensor:
    table = torch.zeros(classes, len(threshold), dtype=torch.int64, device=tokens.device)
    above = (tokens > threshold).view(torch.uint8)
    for group in marked:
        corners = above.index_select(0, group.cells.corners[0])
        for place in group.cells.corners[1:]:
            corners += above.index_select(0, place)
        table += (group.counts @ (corners == 4).to(group.counts.dtype)).long()
        cell, latent = corners.sub_(1).lt(3).nonzero(as_tuple=True)  # 0 turns into 255
        step = max(1, ENTRIES.get(tokens.device.type, ELSEWHERE) // group.cells.area)
        for start in range(0, len(cell), step):
            some = slice(start, start + step)
            _add_crossed(tokens, threshold, group, cell[some], latent[some], table)
    return table


def _add_crossed(
    tokens: Tensor,
    threshold: Tensor,
    group: Labelled,
    cell: Int64[Tensor, " entries"],
    latent: Int64[Tensor, " entries"],
    table: Int64[Tensor, "classes latents"],
) -> None:
    """Adds pixels of cells that latents are active in a part of; entries stand cell by cell."""
    latents = table.shape[1]
    places = group.cells.corners.index_select(1, cell).mul_(latents).add_(latent)
    corners = tokens.view(-1).index_select(0, places.view(-1)).view(4, -1)
    active = group.cells.values(corners, cell).gt_(threshold.index_select(0, latent))
    flat = table.view(-1)
    if not group.several:
        rows = group.labels[0].index_select(0, cell)
        flat.index_add_(0, rows * latents + latent, active.sum(0).long())
        return
    start = 0
    for which, count in zip(*_runs(cell), strict=True):
        present, pixels = group.several[which]
        own = slice(start, start + count)
        places = present[:, None] * latents + latent[own]
        flat.index_add_(0, places.view(-1), (pixels @ active[:, own]).long().view(-1))
        start += count


def _runs(cell: Tensor) -> tuple[list[int], list[int]]:
    which, counts = cell.unique_consecutive(return_counts=True)
    return which.tolist(), counts.tolist()


class Ranked(NamedTuple):
    """Latents among the k largest of their pixel and above their floor."""

    pixel: Int64[Tensor, " entries"]
    latent: Int64[Tensor, " entries"]
    value: Float[Tensor, " entries"]


def ranked_pixels(
    native: Native, groups: list[Cells], floors: Float[Tensor, " latents"], k: int
) -> Iterator[Ranked]:
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
        own = (top >= piece.rows.start) & (top < piece.rows.stop)
        corners = picture * (rows * width) + inside - piece.rows.start * width
        yield cells._replace(corners=corners).some(own)


def _largest(
    tokens: Float[Tensor, "tokens latents"], cells: Cells, floors: Tensor, k: int
) -> Ranked:
    number, latents = cells.corners.shape[1], tokens.shape[1]
    corners = tokens.index_select(0, cells.corners.flatten()).view(4, number, latents)
    least = torch.minimum(*torch.minimum(corners[:2], corners[2:]))
    most = torch.maximum(*torch.maximum(corners[:2], corners[2:]))
    reached = least.topk(min(k, latents), sorted=False).values.amin(1, keepdim=True)
    able = ((most >= reached) & (most > floors.min())).any(0).nonzero()[:, 0]
    cell = torch.arange(number, device=tokens.device).repeat_interleave(len(able))
    values = cells.values(corners.index_select(2, able).view(4, -1), cell)
    values = values.view(cells.area, number, len(able))
    values, place = values.topk(min(k, len(able)), sorted=False)
    latent = able[place]
    kept = values > floors[latent]
    pixel = cells.pixels[:, :, None].expand_as(latent)
    return Ranked(pixel[kept], latent[kept], values[kept])


def count_ranked(
    native: Native,
    groups: list[Cells],
    labels: Int64[Tensor, " pixels"],
    thresholds: Float[Tensor, "latents thresholds"],
    k: int,
    out: Int64[Tensor, "thresholds classes latents"],
) -> None:
    """Adds the pixels at which each latent is among the k largest and above its thresholds."""
    levels = out.new_zeros(len(out) + 1, *out.shape[1:])
    for pixel, latent, value in ranked_pixels(native, groups, thresholds[:, 0].contiguous(), k):
        _add_levels(labels[pixel], latent, value, thresholds, levels)
    out += _reached(levels)


def count_tokens(
    native: Native,
    labels: Int64[Tensor, " tokens"],
    thresholds: Float[Tensor, "latents thresholds"],
    k: int | None,
    out: Int64[Tensor, "thresholds classes latents"],
) -> None:
    """The same where a pixel is a token, and nothing is upsampled: by the active entries."""
    levels = out.new_zeros(len(out) + 1, *out.shape[1:])
    grid = labels.view(native.pictures, *native.grid)
    for part, rows, tokens in native.active(thresholds[:, 0].contiguous(), k):
        token, latent = (tokens > -torch.inf).nonzero(as_tuple=True)
        label = grid[:, rows].flatten()[token]
        latent_here = latent + (part.start or 0)
        _add_levels(label, latent_here, tokens[token, latent], thresholds, levels)
    out += _reached(levels)


def _add_levels(
    label: Tensor, latent: Tensor, value: Tensor, thresholds: Tensor, levels: Tensor
) -> None:
    """One more for each entry, by the number of (ascending) thresholds that it is above."""
    level = torch.zeros_like(latent)
    for threshold in thresholds.T:
        level += value > threshold[latent]
    _, classes, latents = levels.shape
    places = (level * classes + label) * latents + latent
    levels.view(-1).index_add_(0, places, torch.ones_like(places))


def _reached(levels: Int64[Tensor, "levels classes latents"]) -> Tensor:
    """From entries above exactly so many thresholds, those above each."""
    return levels.flip(0).cumsum(0).flip(0)[1:]
