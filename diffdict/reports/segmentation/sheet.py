"""What a segmenter says of pictures: in lines of cells, and in files of its own."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from diffdict import files
from diffdict.reports.drawing.canvas import FAINT, PAPER, text_at, write_png
from diffdict.reports.drawing.colours import as_bytes, colours_of
from diffdict.reports.drawing.contact_sheet import draw_legend
from diffdict.reports.drawing.figure import fitted
from diffdict.reports.drawing.overlay import ladder

SIDE, GAP, LINE = 192, 6, 20  # of a cell, at most; between cells; of a line of text
GREY = 128
TORN = math.log(2)  # divergence of two camps that share no label: from here on as bright as can be


class Line(NamedTuple):
    """A picture's line on a sheet."""

    caption: str
    cells: list[UInt8[np.ndarray, "height width 3"]]


def heat(uncertainty: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Dark where all members agree."""
    level = (255 * uncertainty.float() / TORN).clamp(0, 255).round().long()
    return ladder()[level.cpu().numpy()]


def picture_of(
    image: Float[Tensor, "3 height width"] | None, labels: Int64[Tensor, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture; a grey one where it is not here."""
    if image is None:
        return np.full((*labels.shape, 3), GREY, dtype=np.uint8)
    return as_bytes(image[None])[0]


def draw_sheet(
    columns: Sequence[str],
    lines: Sequence[Line],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Image.Image:
    """A line of cells for each picture, and what the colours mean."""
    high = LINE + SIDE + GAP
    width = GAP + len(columns) * (SIDE + GAP)
    below = draw_legend(class_names, palette, width)
    sheet = Image.new("RGB", (width, LINE + len(lines) * high + below.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        text_at(pen, (GAP + place * (SIDE + GAP), 4), column, "la", FAINT)
    for row, line in enumerate(lines):
        y = LINE + row * high
        text_at(pen, (GAP, y + 2), line.caption, "la")
        for place, cell in enumerate(line.cells):
            sheet.paste(fitted(cell, SIDE), (GAP + place * (SIDE + GAP), y + LINE))
    sheet.paste(below, (0, sheet.height - below.height))
    return sheet


def save_prediction(
    labels: Int64[Tensor, "height width"],
    uncertainty: Float[Tensor, "height width"] | None,
    palette: Sequence[Sequence[int]],
    paths: Mapping[str, Path],
) -> None:
    """Labels as an array and in their colours, and the uncertainty where there is one."""
    data = io.BytesIO()
    np.save(data, labels.cpu().numpy().astype(np.uint8 if len(palette) <= 256 else np.int32))
    for kind, path in paths.items():
        if kind != "uncertainty" or uncertainty is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(paths["labels"], data.getvalue())
    write_png(Image.fromarray(colours_of(labels[None], palette)[0]), paths["masks"])
    if uncertainty is not None:
        write_png(Image.fromarray(heat(uncertainty)), paths["uncertainty"])
