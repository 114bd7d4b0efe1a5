"""Where latents are active in a picture, exactly as it is counted, and in colours over it."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor

from diffdict.metrics.cells import find_cells, upsample
from diffdict.metrics.entries import ranked_pixels
from diffdict.metrics.native import Given, Native

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


@torch.no_grad()
def heights(
    pre: Given,
    floors: Float[Tensor, " latents"],
    chosen: Int64[Tensor, " chosen"],
    thresholds: Float[Tensor, " chosen"],
    size: tuple[int, int],
    ranked: int | None = None,
) -> Float[Tensor, "chosen height width"]:
    """How far some latents are above their floors where they are active in a picture, else 0.

    Active is what `metrics.Concepts` counts: pre-activations, upsampled to `size`, above a latent's
    threshold and, where `ranked`, among the so many largest of all latents.
    """
    native = Native(pre, len(floors))
    groups = find_cells(native.grid, size, 1, native.device)
    if ranked is None:
        values = upsample(native.at(chosen), groups).T
    else:
        values = _ranked_values(native, groups, chosen, thresholds, ranked)
    active = values > thresholds[:, None]
    above = torch.where(active, values - floors[chosen][:, None], 0)
    return above.unflatten(1, size)


def _ranked_values(
    native: Native, groups: list, chosen: Tensor, thresholds: Tensor, k: int
) -> Float[Tensor, "chosen pixels"]:
    """Upsampled pre-activations where they are among the k largest, -inf elsewhere."""
    which, row = chosen.unique(return_inverse=True)
    least = torch.full((native.latents,), torch.inf, device=native.device)
    least.scatter_reduce_(0, chosen, thresholds, "amin")  # nothing else has to be found
    place = torch.full((native.latents,), -1, device=native.device)
    place[which] = torch.arange(len(which), device=native.device)
    pixels = sum(cells.pixels.numel() for cells in groups)
    values = torch.full((len(which), pixels), -torch.inf, device=native.device)
    for found in ranked_pixels(native, groups, least, k):
        values[place[found.latent], found.pixel] = found.value
    return values[row]


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
