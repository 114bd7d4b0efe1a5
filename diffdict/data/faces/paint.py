"""The colours and prints of toy faces, and how light a colour is."""

import math

import numpy as np

from diffdict.data.faces.sketch import Canvas, Colour, Dice


def colours(words: str) -> list[Colour]:
    """Hexadecimal words as RGB."""
    return [np.array([*bytes.fromhex(word)], dtype=np.float64) for word in words.split()]


SKIN = colours("ffe0c6 f6cdaa e7b486 cb8f61 9d6742 704832")
HAIR = colours("2d262a 4e3428 7a4c2e b05c30 deb26c 969296")
PAINT = colours(
    "3a8a8c ea7460 e8b858 384878 b8c88e b6a2d6 e8a4ac 8ec0e2 a64e40 366450 f6ead2 744064"
)


SKIN = colours("ffe0c6 f6cdaa e7b486 cb8f61 9d6742 704832")
HAIR = colours("2d262a 4e3428 7a4c2e b05c30 deb26c 969296")
PAINT = colours(
    "3a8a8c ea7460 e8b858 384878 b8c88e b6a2d6 e8a4ac 8ec0e2 a64e40 366450 f6ead2 744064"
)


def lightness(colour: Colour) -> float:
    """From 0, black, to 1, white: the luma of what of it can be seen (Rec. 601)."""
    return float(np.clip(colour, 0, 255) @ [0.299, 0.587, 0.114]) / 255


def add_pattern(
    dice: Dice, canvas: Canvas, region: int, part: str, colour: Colour, odds: float
) -> bool:
    """With these odds stripes, dots or checks in a second colour; whether they came."""
    kind, angle = dice.pick(["stripes", "dots", "checks"]), dice.between(0.0, math.pi)
    period = dice.between(0.07, 0.16)
    printed = dice.chance(odds)
    if printed:
        other = canvas.region(part, colour)
        canvas.patterns.append((region, other, kind, (math.cos(angle), math.sin(angle), period)))
    return printed
