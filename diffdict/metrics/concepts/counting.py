"""Exact counts latent × class of the pixels at which latents are active, at the masks' resolution.

Nothing of size pixels × latents is made. A latent that decides alone is counted by the corners of
its cells (see cells.py): whole cells by one matrix product with the cells' class counts, and only
cells that a threshold crosses pixel by pixel. (Ranked latents, small cells: see entries.py.)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.bilinear.cells import Cells
from diffdict.metrics.concepts.entries import above_pixels, count_entries
from diffdict.metrics.concepts.pre_activations import Native

ENTRIES = {"cpu": 2**18}  # pixels × entries at once: they stay within a core's cache
ELSEWHERE = 2**24  # where a launch costs more than a cache miss
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
                inside, number = here[:, which], counts[:, which]
                mixed = not single[which[0]]
                several = [_one_hot(*pair) for pair in zip(inside.T, number.T, strict=True)]
                marked.append(Labelled(cells.some(which), inside, number, several if mixed else []))
    return marked


def _one_hot(labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    present = counts.nonzero()[:, 0]
    return present, (labels == present[:, None]).float()


def count_alone(
    native: Native,
    groups: list[Cells],
    labels: Int64[Tensor, "sets pixels"],
    thresholds: Float[Tensor, "latents thresholds"],
    out: Int64[Tensor, "sets thresholds classes latents"],
) -> None:
    """Adds the pixels at which each latent is above each of its thresholds, to each set of labels.

    Entry by entry where that is faster (measured): it follows what is active, cells what is asked.
    """
    (sets, pixels), tokens = labels.shape, native.pictures * native.grid[0] * native.grid[1]
    marked: list[list[Labelled]] = []
    for part, _, values in native.parts():
        limits, tables = thresholds[part], out[..., part]
        active = (values > limits[:, 0]).float().mean() * pixels / tokens
        if active <= limits.shape[1] * sets:
            entries = above_pixels(values, groups, limits[:, 0].contiguous())
            count_entries(entries, labels, limits, tables)
            continue
        marked = marked or [label_cells(groups, each, out.shape[2]) for each in labels]
        for cells, table in zip(marked, tables, strict=True):
            count_cells(values, cells, limits, table)


def count_cells(
    tokens: Float[Tensor, "tokens latents"],
    marked: list[Labelled],
    thresholds: Float[Tensor, "latents thresholds"],
    out: Int64[Tensor, "thresholds classes latents"],
) -> None:
    """The same for one set of labels, by whole cells."""
    for table, threshold in zip(out, thresholds.T.contiguous(), strict=True):
        table += _above(tokens, threshold, marked, len(table))


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
        part = slice(start, start + count)
        places = present[:, None] * latents + latent[part]
        flat.index_add_(0, places.view(-1), (pixels @ active[:, part]).long().view(-1))
        start += count


def _runs(cell: Tensor) -> tuple[list[int], list[int]]:
    which, counts = cell.unique_consecutive(return_counts=True)
    return which.tolist(), counts.tolist()
