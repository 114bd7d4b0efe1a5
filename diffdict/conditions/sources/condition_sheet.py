"""A sheet of samples drawn from vectors: each source, its samples, and where they differ."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.conditions.base import ConditionRows
from diffdict.reports.drawing.contact_sheet import contact_sheet

MOST = 8  # samples of a source
TAIL = 20  # characters of a caption


def condition_sheet(samples: Float[Tensor, "n 3 side side"], rows: ConditionRows) -> Image.Image:
    """A line a source; of several samples also their deviation, pixel by pixel (white: 1).

    Lines that lead to another picture have that one at their end instead.
    """
    if rows.strength is not None:
        return _lines_of_changes(samples, rows)
    if rows.pictures is None:
        return contact_sheet(samples, captions=[shorten_caption(word) for word in rows.captions])
    if rows.target is not None:
        return _lines_to_targets(samples, rows)
    cells, captions, columns = [], [], 0
    lines = lines_of(rows, len(samples))
    spread = any(len(line) > 1 for line in lines)
    widest = max(min(MOST, len(line)) for line in lines)
    for line in lines:
        line_samples, shown = samples[line], samples[line[:MOST]]
        source = rows.source[line[0]]
        blank = torch.ones_like(samples[0])
        cells += [rows.pictures[source] if source >= 0 else blank, *shown]
        captions += [shorten_caption(rows.captions[line[0]]), *[""] * len(shown)]
        missing = widest - len(shown)
        cells += [blank] * missing
        captions += [""] * missing
        if spread:
            deviation = line_samples.std(0, correction=0).mean(0).expand(3, -1, -1)
            cells.append(2 * deviation.clamp(0, 1) - 1)
            captions.append("deviation")
        columns = widest + 1 + spread
    return contact_sheet(torch.stack(cells), columns=columns, captions=captions)


def _lines_to_targets(samples: Float[Tensor, "n 3 side side"], rows: ConditionRows) -> Image.Image:
    """The source, its samples with what is said of each, and what they lead to."""
    cells, captions = [], []
    lines = lines_of(rows, len(samples))
    blank, widest = torch.ones_like(samples[0]), max(map(len, lines))
    for line in lines:
        ends = [places[line[0]] for places in (rows.source, rows.target)]
        first, last = (rows.pictures[end] if end >= 0 else blank for end in ends)
        missing = widest - len(line)
        cells += [first, *samples[line], *[blank] * missing, last]
        words = [shorten_caption(rows.captions[row]) for row in line]
        captions += ["source", *words, *[""] * missing, "target" if ends[1] >= 0 else ""]
    return contact_sheet(torch.stack(cells), columns=widest + 2, captions=captions)


def _lines_of_changes(samples: Float[Tensor, "n 3 side side"], rows: ConditionRows) -> Image.Image:
    """A line a change, each noise at every strength; the base at its head where it is a picture."""
    lines = lines_of(rows, len(samples))
    blank, widest = torch.ones_like(samples[0]), max(map(len, lines))
    head = [] if rows.pictures is None else [rows.pictures[0]]
    cells, captions = [], []
    for line in lines:
        missing = widest - len(line)
        cells += [*head, *samples[line], *[blank] * missing]
        words = [shorten_caption(rows.captions[row]) for row in line]
        captions += [*["source"] * len(head), *words, *[""] * missing]
    return contact_sheet(torch.stack(cells), columns=widest + len(head), captions=captions)


def lines_of(rows: ConditionRows, number: int) -> list[list[int]]:
    """The first samples, those of one line or source together."""
    lines: dict[int, list[int]] = {}
    places = rows.source if rows.line is None else rows.line
    for index, place in enumerate(places[:number]):
        lines.setdefault(place if place >= 0 else -1 - index, []).append(index)
    return list(lines.values())


def shorten_caption(caption: str) -> str:
    """The end of a caption, which a cell has room for."""
    return caption if len(caption) <= TAIL else f"…{caption[1 - TAIL :]}"
