"""What portraits are drawn with: chance, a canvas of regions, curves, and a head that turns."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image, ImageDraw

Points = Float[np.ndarray, "points 2"]  # x to the right, y down
Coordinates = Float[np.ndarray, " points"]
Colour = Float[np.ndarray, "3"]  # red, green, blue in 0..255
FINE = 4  # the scene is drawn this much larger, then reduced
PARTS = {
    "background": (38, 38, 46),
    "skin": (247, 196, 160),
    "hair": (139, 87, 42),
    "brows": (92, 46, 138),
    "eyes": (255, 255, 255),
    "iris": (0, 122, 255),
    "nose": (255, 128, 0),
    "lips": (224, 32, 96),
    "mouth": (128, 0, 32),
    "ears": (255, 221, 51),
    "neck": (176, 212, 92),
    "clothes": (52, 168, 130),
    "hat": (173, 109, 232),
    "glasses": (0, 214, 230),
    "beard": (120, 124, 140),
}
NAMES = list(PARTS)
CIRCLE = np.stack([np.cos(a := np.arange(40) * (math.tau / 40)), np.sin(a)], 1)
RAMP = np.linspace(-1.0, 1.0, 15)
TALL = 1.22  # a head's half height in half widths


class Dice:
    """Chance from uniforms alone, so that no numpy version changes a face."""

    def __init__(self, seed: int, split: int, index: int):
        mixed = np.random.SeedSequence([seed, split, index])
        self.uniforms = np.random.Generator(np.random.Philox(mixed)).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.uniforms())

    def chance(self, probability: float) -> bool:
        return float(self.uniforms()) < probability

    def pick(self, things: Sequence):
        return things[int(float(self.uniforms()) * len(things))]

    def grid(self, rows: int, columns: int) -> Float32[np.ndarray, "rows columns"]:
        return self.uniforms((rows, columns)).astype(np.float32) * 2 - 1

    def paint(self, *boxes: Sequence) -> Colour:
        """A colour out of one of the boxes, a little off."""
        return self.paint_from(*boxes)[0]

    def paint_from(self, *boxes: Sequence) -> tuple[Colour, Sequence]:
        """The same, and which box it came from."""
        box = self.pick(boxes)
        colour = np.array(self.pick(box), dtype=np.float64)
        drift = self.between(0.88, 1.08)
        return colour * drift + [self.between(-10.0, 10.0) for _ in range(3)], box


class Canvas:
    """The scene as region numbers at FINE times the size; each region has a class and a colour."""

    def __init__(self, size: int):
        self.side = size * FINE
        self.image = Image.new("L", (self.side, self.side))
        self.pen = ImageDraw.Draw(self.image)
        self.labels: list[int] = []
        self.colours: list[Colour] = []
        self.patterns: list[tuple[int, int, str, tuple[float, ...]]] = []

    def region(self, part: str, colour: Colour) -> int:
        self.labels.append(NAMES.index(part))
        self.colours.append(np.clip(colour, 0, 255))
        return len(self.labels) - 1

    def fill(self, points: Points, region: int) -> None:
        self.pen.polygon((points * self.side - 0.5).ravel().tolist(), fill=region)

    def stroke(self, points: Points, region: int, width: float) -> None:
        line = (points * self.side - 0.5).ravel().tolist()
        self.pen.line(line, fill=region, width=max(1, round(width * self.side)), joint="curve")

    def numbers(self) -> UInt8[np.ndarray, "side side"]:
        """The region of every fine pixel, patterns printed in."""
        numbers = np.array(self.image)
        for region, other, kind, how in self.patterns:
            numbers[(numbers == region) & printed(kind, self.side, how)] = other
        return numbers


def printed(kind: str, side: int, how: tuple[float, ...]) -> Bool[np.ndarray, "side side"]:
    """Where the second colour of stripes, dots or checks goes."""
    x, y = grid(side)
    cosine, sine, period = how
    u = (x * cosine + y * sine) / period
    if kind == "stripes":
        return (u - np.floor(u)) < 0.45
    v = (y * cosine - x * sine) / period
    if kind == "checks":
        return ((np.floor(u) + np.floor(v)) % 2) < 1
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return u * u + v * v < 0.075


@lru_cache(maxsize=8)
def grid(side: int) -> tuple[Float32[np.ndarray, "1 side"], Float32[np.ndarray, "side 1"]]:
    """The centres of the pixels, as a row of x and a column of y in [0, 1]."""
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    return centres[None, :], centres[:, None]


def oval(x: float, y: float, rx: float, ry: float) -> Points:
    return CIRCLE * (rx, ry) + (x, y)


def band(x: Coordinates, above: Coordinates, below: Coordinates) -> Float[np.ndarray, "both 2"]:
    """The area between two curves over x."""
    return np.concatenate([np.stack([x, above], 1), np.stack([x, below], 1)[::-1]])


def inside(points: Points, rx: float, ry: float) -> Points:
    """Points pulled back onto an oval where they leave it."""
    radius = np.sqrt((points[:, :1] / rx) ** 2 + (points[:, 1:] / ry) ** 2)
    return points / np.maximum(radius, 1)


class Head:
    """Where a face is and how it is turned; parts are given in half widths of the head."""

    def __init__(self, dice: Dice):
        self.scale = dice.between(0.268, 0.335)
        self.x, self.y = 0.5 + dice.between(-0.1, 0.1), 0.455 + dice.between(-0.05, 0.06)
        tilt = dice.between(-0.28, 0.28)
        self.cosine, self.sine = math.cos(tilt), math.sin(tilt)
        self.yaw, self.pitch = dice.between(-0.32, 0.32), dice.between(-0.12, 0.1)
        self.jaw, self.square = dice.between(0.02, 0.3), dice.between(0.82, 1.0)
        self.light = dice.between(-0.8, 0.8), dice.between(-0.9, -0.1)

    def place(self, points: Points) -> Points:
        """Head to picture: what lies on the front of the ball moves with the turn."""
        x, y = points[:, 0], points[:, 1]
        front = np.maximum(0, 1 - x * x - (y / TALL) ** 2)
        return self.flat(np.stack([x + self.yaw * front, y + self.pitch * front], 1))

    def flat(self, points: Points) -> Points:
        x, y = points[:, 0] * self.scale, points[:, 1] * self.scale
        turned = [x * self.cosine - y * self.sine, x * self.sine + y * self.cosine]
        return np.stack(turned, 1) + np.array([self.x, self.y])

    def outline(self, grow: float = 1.0) -> Points:
        bent = np.sign(CIRCLE) * np.abs(CIRCLE) ** self.square
        low = np.maximum(bent[:, 1], 0)
        return np.stack([bent[:, 0] * (1 - self.jaw * low**2), bent[:, 1] * TALL], 1) * grow
