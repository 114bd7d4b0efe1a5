"""A figure of rows: what a row is about, beside it pictures in groups of the same columns."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from diffdict.reports.drawing.canvas import INK, PAPER, font, wide
from diffdict.reports.drawing.overlay import colour_bar

QUIET, RULE = (110, 112, 122), (224, 222, 214)
LEFT, GAP, APART = 226, 4, 20  # width of a row's words; between cells; between groups
HEAD, FOOT, LINE = 66, 58, 19  # heights
SIDE = 128  # of a cell


class Scale(NamedTuple):
    """What the colours mean."""

    weak: str
    strong: str
    note: str


class FigureRow(NamedTuple):
    """One thing, its words, and its pictures."""

    name: str
    colour: Sequence[int]
    lines: Sequence[str]  # under the name
    groups: Sequence[Sequence[UInt8[np.ndarray, "height width 3"]]]


def draw_figure(
    title: str, columns: Sequence[str], rows: Sequence[FigureRow], scale: Scale, side: int = SIDE
) -> Image.Image:
    """`columns`: heads of the cells of every group; `side`: of a cell, at most."""
    groups = max(len(row.groups) for row in rows)
    span = len(columns) * (side + GAP) - GAP
    width = LEFT + groups * (span + APART)
    high = max(side, (len(max(rows, key=lambda row: len(row.lines)).lines) + 2) * LINE) + APART
    sheet = Image.new("RGB", (width, HEAD + len(rows) * high + FOOT), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((APART, 10), title, INK, font(20))
    for group in range(groups):
        for place, column in enumerate(columns):
            x = LEFT + group * (span + APART) + place * (side + GAP)
            pen.text((x, HEAD - LINE - 6), column, QUIET, font(14))
    for number, row in enumerate(rows):
        y = HEAD + number * high
        pen.line((APART, y - 4, width - APART, y - 4), RULE)
        _words(pen, row, y)
        for group, cells in enumerate(row.groups):
            for place, cell in enumerate(cells):
                x = LEFT + group * (span + APART) + place * (side + GAP)
                sheet.paste(fitted(cell, side), (x, y + 5))
    _scale(sheet, pen, scale, HEAD + len(rows) * high + 12)
    return sheet


def _words(pen: ImageDraw.ImageDraw, row: FigureRow, y: int) -> None:
    pen.rounded_rectangle((APART, y + 8, APART + 14, y + 22), 3, tuple(row.colour), INK)
    pen.text((APART + 22, y + 3), clipped(row.name, LEFT - APART - 28, 18), INK, font(18))
    for place, line in enumerate(row.lines):
        words = clipped(line, LEFT - APART - 8, 15)
        pen.text((APART, y + 34 + place * LINE), words, (INK, QUIET)[place % 2], font(15))


def _scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, scale: Scale, y: int) -> None:
    """The colours, and what they mean."""
    pen.text((LEFT, y), scale.weak, QUIET, font(14))
    x = LEFT + wide(scale.weak, 14) + 8
    sheet.paste(colour_bar(180, 14), (x, y + 1))
    pen.rectangle((x - 1, y, x + 180, y + 15), outline=RULE)
    pen.text((x + 188, y), scale.strong, QUIET, font(14))
    pen.text((LEFT, y + 19), scale.note, QUIET, font(14))


def fitted(cell: UInt8[np.ndarray, "height width 3"], side: int) -> Image.Image:
    """Enlarged by whole steps, so that a pixel stays one; else reduced."""
    picture = Image.fromarray(np.ascontiguousarray(cell))
    longest = max(picture.size)
    if longest <= side:
        times = side // longest
        return picture.resize(
            (picture.width * times, picture.height * times), Image.Resampling.NEAREST
        )
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return picture


def clipped(text: str, width: int, size: int) -> str:
    """As much of the text as fits."""
    if wide(text, size) <= width:
        return text
    while text and wide(text + "...", size) > width:
        text = text[:-1]
    return text + "..."
