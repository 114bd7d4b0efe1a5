"""What is taken for what: a confusion matrix as a picture."""

from collections.abc import Sequence

from jaxtyping import Int64
from PIL import Image, ImageDraw
from torch import Tensor

from diffdict.reports.drawing.canvas import (
    EMPTY,
    INK,
    PAPER,
    font,
    ramp,
    readable_on,
    text_at,
    wide,
)

CELL, GAP, LINE = 30, 14, 20
SHOWN = 0.005  # shares from here on are written into their cells


def draw_confusion(
    pixels: Int64[Tensor, "classes classes"], class_names: Sequence[str]
) -> Image.Image:
    """A row for each class that has pixels: of a hundred of them, how many were taken for what."""
    rows = [label for label in range(len(pixels)) if pixels[label].any()]
    columns = [label for label in range(len(pixels)) if pixels[:, label].any() or label in rows]
    left = max(wide(name) for name in class_names) + 2 * GAP
    top = left + LINE + GAP
    width = max(left + len(columns) * CELL + GAP, wide(TITLE) + 2 * GAP)
    sheet = Image.new("RGB", (width, top + len(rows) * CELL + 2 * LINE), PAPER)
    pen = ImageDraw.Draw(sheet)
    text_at(pen, (GAP, GAP // 2), TITLE, "la")
    for place, label in enumerate(columns):
        _upright(sheet, class_names[label], (left + place * CELL + CELL // 2, top - 6))
    for place, label in enumerate(rows):
        y = top + place * CELL
        text_at(pen, (left - 8, y + CELL // 2), class_names[label], "rm")
        shares = (pixels[label].double() / pixels[label].sum()).tolist()
        for other, column in enumerate(columns):
            _cell(pen, (left + other * CELL, y), shares[column], column == label)
    return sheet


TITLE = "Of 100 pixels of a class (row), so many were taken for a class (column)"


def _cell(pen: ImageDraw.ImageDraw, place: tuple[int, int], share: float, right: bool) -> None:
    """A share in its colour and in words; what is right is framed."""
    x, y = place
    colour = ramp(share) if share >= SHOWN else EMPTY
    box = (x, y, x + CELL - 2, y + CELL - 2)
    pen.rectangle(box, colour, INK if right else None, 2 if right else 0)
    if share >= SHOWN:
        middle = (x + CELL // 2 - 1, y + CELL // 2 - 1)
        text_at(pen, middle, f"{100 * share:.0f}", "mm", readable_on(colour))


def _upright(sheet: Image.Image, name: str, foot: tuple[int, int]) -> None:
    """A name that reads upwards from here."""
    strip = Image.new("RGB", (wide(name) + 4, LINE), PAPER)
    ImageDraw.Draw(strip).text((0, LINE // 2), name, INK, font(), anchor="lm")
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (foot[0] - LINE // 2, foot[1] - turned.height))
