"""Heat and areas over a picture: colours from weak to strong, tints and outlines."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image

# Weak to strong; the page's heat.js has the same.
STOPS = (
    (40, 8, 80),
    (120, 20, 110),
    (190, 50, 70),
    (240, 110, 25),
    (252, 190, 40),
    (252, 252, 160),
)
FAINTEST, STRONGEST = 0.45, 0.9  # opacity of what is just active, and of the largest
GREY = 0.7  # how much of a picture's colour goes under its heat, whose colours mean something
TINT = 0.75  # opacity of a class's colour
RIM = (255, 255, 255)  # of a class's area


@cache
def ladder() -> UInt8[np.ndarray, "256 3"]:
    """Colours of 256 levels."""
    levels, stops = np.linspace(0, len(STOPS) - 1, 256), np.array(STOPS, dtype=float)
    columns = [np.interp(levels, np.arange(len(STOPS)), stops[:, c]) for c in range(3)]
    return np.stack(columns, 1).round().astype(np.uint8)


def overlay(
    picture: UInt8[np.ndarray, "height width 3"], strength: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in pale colours, and over it what is above 0 of a strength of up to 1."""
    level = (255 * np.clip(strength, 0, 1)).round().astype(np.uint8)
    opacity = FAINTEST + (STRONGEST - FAINTEST) * np.clip(strength, 0, 1)[..., None]
    opacity = np.where(strength[..., None] > 0, opacity, 0)
    return (opacity * ladder()[level] + (1 - opacity) * _pale(picture)).round().astype(np.uint8)


def tinted(
    picture: UInt8[np.ndarray, "height width 3"],
    inside: Bool[np.ndarray, "height width"],
    colour: Sequence[int],
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in pale colours, an area in its own."""
    opacity = np.where(inside, TINT, 0)[..., None]
    return (opacity * np.array(colour) + (1 - opacity) * _pale(picture)).round().astype(np.uint8)


def _pale(picture: UInt8[np.ndarray, "height width 3"]) -> np.ndarray:
    return (1 - GREY) * picture + GREY * picture.mean(2, keepdims=True)


def colour_bar(width: int, height: int) -> Image.Image:
    """The ladder from weak to strong."""
    row = ladder()[np.linspace(0, 255, width).round().astype(int)]
    return Image.fromarray(np.repeat(row[None], height, 0))


def enlarged(cell: Shaped[np.ndarray, "_ _ *c"], times: int) -> Shaped[np.ndarray, "_ _ *c"]:
    """Each pixel as a square of so many."""
    return cell.repeat(times, 0).repeat(times, 1)


def outlined(
    picture: UInt8[np.ndarray, "height width 3"],
    inside: Bool[np.ndarray, "height width"],
    rim: Sequence[int] = RIM,
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with the border of an area drawn within it."""
    padded = np.pad(inside, 1, mode="edge")
    around = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    border = inside & ~np.logical_and.reduce(around)
    return np.where(border[..., None], np.array(rim, dtype=np.uint8), picture)
