"""Hair of toy faces: what hangs behind the head, what falls over the forehead, and beards."""

import math

import numpy as np

from diffdict.data.faces.paint import lightness
from diffdict.data.faces.sketch import RAMP, Canvas, Colour, Dice, Head, band, oval
from diffdict.data.faces.traits import Traits

STYLES = [
    "bald",
    "short",
    "parted",
    "bangs",
    "bob",
    "long",
    "long",
    "curls",
    "curls",
    "bun",
    "spikes",
]
CUTS = {  # those that pictures are asked for, by style
    "bald": "bald",
    "bangs": "bangs",
    "long": "long_hair",
    "curls": "curls",
    "bun": "bun",
    "spikes": "spikes",
}
BEARDS = {"full": "full_beard", "goatee": "goatee", "moustache": "moustache"}
DARK_HAIR = 0.35  # black and dark brown are darker


def draw_back_hair(dice: Dice, canvas: Canvas, head: Head, hair: Colour, style: str) -> None:
    """What hangs behind the neck or stands above the skull."""
    back = canvas.region("hair", hair * 0.88)
    length, wide = dice.between(1.3, 2.1), dice.between(1.2, 1.45)
    if style in ("bob", "long", "bangs"):
        low = length if style == "long" else 1.05
        xs = np.concatenate([RAMP * wide, RAMP[::-1] * wide])
        ys = np.concatenate([-np.sqrt(1 - RAMP**2) * 1.35, low - 0.5 * RAMP**6])
        canvas.fill(head.flat(np.stack([xs, ys], 1)), back)
    if style == "curls":
        for angle in np.linspace(math.pi * 0.85, math.pi * 2.15, 10):
            r = dice.between(0.34, 0.46)
            x, y = 0.98 * math.cos(angle), 1.05 * math.sin(angle)
            canvas.fill(head.flat(oval(x, y, r, r)), back)
    if style == "bun":
        r = dice.between(0.36, 0.5)
        canvas.fill(head.flat(oval(dice.between(-0.3, 0.3), -1.5, r, r)), back)


def draw_front_hair(
    dice: Dice, canvas: Canvas, head: Head, hair: Colour, style: str, traits: Traits
) -> None:
    """What falls over the forehead and the temples."""
    front, lock = canvas.region("hair", hair), canvas.region("hair", hair * 1.14 + 6)
    line, part, temple = (
        dice.between(-0.9, -0.66),
        dice.between(-0.6, 0.6),
        dice.between(-0.3, 0.15),
    )
    traits.add(**{name: style == each for each, name in CUTS.items()})
    if style == "bald":
        return
    shade = lightness(hair)
    traits.add(dark_hair=shade < DARK_HAIR, hair_lightness=shade)
    xs = np.linspace(1.06, -1.06, 31)
    edge = line + 0.1 * xs**2 + (temple - line) * (xs / 1.06) ** 8
    if style == "bangs":
        edge = np.where(
            np.abs(xs) > 0.88, 0.5, line + 0.34 + 0.05 * np.where(np.arange(31) % 4 < 2, 1, -1)
        )
    if style in ("parted", "long", "bob"):
        edge = np.minimum(line - 0.08 + 0.62 * np.abs(xs - part * 0.7) ** 1.3, 0.55)
    if style == "spikes":
        edge = line + 0.14 + 0.11 * np.where(np.arange(31) % 6 < 3, 1.0, -1.0) + 0.3 * xs**4
    arch = np.sqrt(np.maximum(0, 1 - (xs / 1.08) ** 2))
    puff = dice.between(1.28, 1.42) + (
        0.1 * np.where(np.arange(31) % 4 < 2, 1, -1) if style == "spikes" else 0.0
    )
    canvas.fill(head.place(band(xs * 1.03, -puff * arch, edge)), front)
    for shift in (-0.35, 0.2):
        strand = np.stack([0.3 * RAMP + shift + 0.3 * part, -1.12 + 0.12 * RAMP**2 + 0.1 * RAMP], 1)
        canvas.stroke(head.place(strand), lock, head.scale * 0.09)
    if style == "curls":
        for x in np.linspace(-0.85, 0.85, 6):
            r = dice.between(0.24, 0.34)
            canvas.fill(head.place(oval(float(x), line - 0.02 + 0.25 * float(x) ** 2, r, r)), front)


def draw_beard(dice: Dice, canvas: Canvas, head: Head, hair: Colour, traits: Traits) -> None:
    """A full beard, a goatee or a moustache on about every third face."""
    beard = canvas.region("beard", hair * dice.between(0.8, 1.05))
    kind, high, drop = (
        dice.pick(["full", "full", "goatee", "moustache"]),
        dice.between(0.2, 0.5),
        dice.between(1.0, 1.15),
    )
    grown = dice.chance(0.38)
    traits.add(beard=grown, **{name: grown and kind == each for each, name in BEARDS.items()})
    if not grown:
        return
    if kind == "full":
        outline = head.outline(1.03) * (1, drop)
        rim = outline[(outline[:, 1] > high)]
        xs = RAMP * np.abs(rim[:, 0]).max()
        canvas.fill(
            head.place(
                np.concatenate([rim, np.stack([xs, high + 0.42 * (1 - np.abs(RAMP) ** 3)], 1)])
            ),
            beard,
        )
    if kind == "goatee":
        canvas.fill(head.place(oval(0.0, 0.98, 0.42, 0.36)), beard)
    if kind != "goatee" or high > 0.35:
        curve = 0.5 + 0.12 * RAMP**2
        thick = 0.15 * np.sqrt(1 - RAMP**2)
        canvas.fill(head.place(band(RAMP * 0.48, curve - thick, curve + thick * 0.6)), beard)
