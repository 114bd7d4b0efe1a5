"""A contact sheet: pictures in rows with what belongs beneath them, and a legend of classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from diffdict.reports.drawing.canvas import INK, PAPER, font, wide
from diffdict.reports.drawing.chosen import legend_of, muted
from diffdict.reports.drawing.colours import as_bytes, colours_of, rainbow

GAP, LINE = 6, 20  # pixels between the cells; height of a line of text
CELL = 128  # small pictures are enlarged to about this side


def contact_sheet(
    images: Float[Tensor, "n 3 h w"],
    masks: Int[Tensor, "n h w"] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    columns: int = 8,
    scale: int | None = None,
    *,
    predictions: Int[Tensor, "n h w"] | None = None,
    beneath: UInt8[np.ndarray, "n h w 3"] | None = None,
    class_names: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    opacity: float = 1.0,
    only: Sequence[int] | None = None,
) -> Image.Image:
    """Pictures in [-1, 1] in rows; beneath each its mask and prediction, below all a legend.

    `beneath`: a last picture under those.
    `opacity` below 1 lets the picture shine through its mask. `only`: labels that keep their
    colours, the others are grey.
    """
    bytes_ = as_bytes(images)
    layers = [bytes_]
    for labels in (masks, predictions):
        if labels is not None:
            all_colours = palette or rainbow(int(labels.max()) + 1)
            colours = colours_of(labels, muted(all_colours, only))
            layers.append(np.rint(opacity * colours + (1 - opacity) * bytes_).astype(np.uint8))
    layers += [] if beneath is None else [beneath]
    count, height, width = bytes_.shape[:3]
    scale = scale or max(1, round(CELL / max(height, width)))
    columns = max(1, min(columns, count))
    cell = (width * scale, height * scale)
    text = LINE if captions else 0
    step = (cell[0] + GAP, len(layers) * (cell[1] + 2) + text + GAP)
    side = GAP + columns * step[0]
    has_legend = class_names and palette and len(layers) > 1
    legend = draw_legend(*legend_of(class_names, palette, only), side) if has_legend else None
    tall = GAP + -(-count // columns) * step[1]
    sheet = Image.new("RGB", (side, tall + (legend.height if legend else 0)), PAPER)
    for index in range(count):
        x, y = GAP + index % columns * step[0], GAP + index // columns * step[1]
        for layer in layers:
            picture = Image.fromarray(layer[index])
            sheet.paste(picture.resize(cell, Image.Resampling.NEAREST), (x, y))
            y += cell[1] + 2
        if captions:
            ImageDraw.Draw(sheet).text((x, y), captions[index], INK, font())
    if legend:
        sheet.paste(legend, (0, tall))
    return sheet


def draw_legend(names: Sequence[str], palette: Sequence[Sequence[int]], width: int) -> Image.Image:
    """A patch of colour and a name for every class, in as many lines as it takes."""
    places, x, y = [], GAP, 4
    for name in names:
        step = LINE + wide(name) + 3 * GAP
        if x + step > width and x > GAP:
            x, y = GAP, y + LINE
        places.append((x, y))
        x += step
    legend = Image.new("RGB", (width, y + LINE + 4), PAPER)
    pen = ImageDraw.Draw(legend)
    for (x, y), name, colour in zip(places, names, palette, strict=False):
        pen.rectangle((x, y + 2, x + 14, y + 15), tuple(colour), INK)
        pen.text((x + LINE, y), name, INK, font())
    return legend
