"""What charts are drawn with: colours that brighten evenly, text, and a file that is whole."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffdict import files

Colour = tuple[int, int, int]
PAPER, INK, FAINT, EMPTY = (250, 249, 246), (40, 40, 48), (150, 150, 155), (228, 226, 220)
# dark blue to yellow, in even steps of lightness, for the colour-blind too (matplotlib's viridis)
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
LINES = (  # told apart by the colour-blind too (Okabe and Ito 2008)
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233)),
    *((120, 94, 40), (90, 90, 90)),
)


def font(size: int = 13) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The one that comes with Pillow."""
    return ImageFont.load_default(size=size)


def wide(text: str, size: int = 13) -> int:
    """Pixels that a text takes."""
    return round(font(size).getlength(text))


def ramp(share: float) -> Colour:
    """The colour of a value at this share of its range."""
    place = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    pairs = zip(RAMP[low], RAMP[low + 1], strict=True)
    return tuple(round(a + (b - a) * (place - low)) for a, b in pairs)


def readable_on(colour: Colour) -> Colour:
    """Ink or paper, whichever is read more easily there."""
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return INK if light > 140 else PAPER


def write_png(picture: Image.Image, path: Path) -> Path:
    """The file, whole or not at all."""
    return files.write_atomic(path, lambda stream: picture.save(stream, format="PNG"))


def stacked(pictures: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """One below the other."""
    width = max(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, sum(p.height + gap for p in pictures) - gap), PAPER)
    y = 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height + gap
    return sheet


def text_at(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, anchor: str, fill: Colour = INK
) -> None:
    """A word by its anchor (Pillow's two letters: mm is the middle)."""
    pen.text(place, text, fill, font(), anchor=anchor)
