"""What sheets and figures are drawn with: paper and ink, text, and a file that is whole."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffdict import files

PAPER, INK, FAINT, EMPTY = "#faf9f6", "#282830", "#96969b", "#e4e2dc"


def font(size: int = 13) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The one that comes with Pillow."""
    return ImageFont.load_default(size=size)


def wide(text: str, size: int = 13) -> int:
    """Pixels that a text takes."""
    return round(font(size).getlength(text))


def write_png(picture: Image.Image, path: Path) -> Path:
    """The file, whole or not at all."""
    return files.write_atomic(path, lambda stream: picture.save(stream, format="PNG"))


def text_at(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, anchor: str, fill: str = INK
) -> None:
    """A word by its anchor (Pillow's two letters: mm is the middle)."""
    pen.text(place, text, fill, font(), anchor=anchor)
