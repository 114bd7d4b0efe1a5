"""How a drawn scene becomes a picture and a mask: colours, classes, and the light on them."""

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image, ImageFilter

from diffdict.data.faces.sketch import FINE, NAMES, PARTS, TALL, Canvas, Dice, Head, grid

Classes = UInt8[np.ndarray, "fine fine"]  # the class of every pixel of the large scene
Rgb = Float32[np.ndarray, "side side 3"]  # red, green, blue in 0..255
Field = Float32[np.ndarray, "side side"]


Picture = UInt8[np.ndarray, "side side 3"]
Mask = Int64[np.ndarray, "side side"]


def develop(dice: Dice, canvas: Canvas, head: Head, size: int) -> tuple[Picture, Mask]:
    """Regions become colours and classes; then light falls on them."""
    numbers, labels = canvas.numbers(), np.array(canvas.labels, dtype=np.uint8)
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(labels)] = np.rint(canvas.colours)
    flat = Image.fromarray(numbers)
    flat.putpalette(table.ravel().tolist())
    rgb = np.asarray(flat.convert("RGB").reduce(FINE), dtype=np.float32)
    classes = labels[numbers]
    bright = np.rint(np.clip(lit(dice, head, rgb, classes, size), 0, 255))
    return bright.astype(np.uint8), majority_class(classes, size)


def majority_class(classes: Classes, size: int) -> Int64[np.ndarray, "side side"]:
    """The class that covers most of each pixel."""
    pixel = np.repeat(np.arange(size, dtype=np.int32) * len(PARTS), FINE)
    where = classes + pixel[None, :] + pixel[:, None] * np.int32(size)
    votes = np.bincount(where.ravel(), minlength=size * size * len(PARTS))
    return votes.reshape(size, size, len(PARTS)).argmax(-1)


def lit(dice: Dice, head: Head, rgb: Rgb, classes: Classes, size: int) -> Rgb:
    """The picture under its light: round heads, soft shadows, rosy cheeks, woven cloth, a tint."""
    x, y = grid(size)
    fx = ((x - head.x) * head.cosine + (y - head.y) * head.sine) / head.scale
    fy = ((y - head.y) * head.cosine - (x - head.x) * head.sine) / head.scale
    side, up = head.light
    head_parts = cover(classes, "skin hair ears nose beard hat lips brows iris glasses eyes mouth")
    hair, bare = cover(classes, "hair beard"), cover(classes, "skin nose ears")
    wall, cloth = cover(classes, "background"), cover(classes, "clothes")
    rim = np.minimum(fx * fx + (fy / TALL) ** 2, 1.5) ** 2
    toward = np.clip(fx, -1.3, 1.3) * side + np.clip(fy / TALL, -1.3, 1.3) * up
    shade = 1 + head_parts * (0.05 - 0.14 * rim + 0.17 * toward)
    chin = bump(fx, fy, (0.1 * head.yaw, 1.3), (1.0, 0.55))
    shade -= (1 - head_parts - wall) * (0.34 * chin)
    shade += cloth * (0.12 * toward + dice.between(0.0, 0.1) * cloud(dice, 14, 14, size))
    gloss = bump(fx * 0.4, fy + 0.95 - 0.3 * fx * fx, (0.3 * side, 0.0), (0.6, 0.26))
    shade += hair * (0.3 * gloss + 0.08 * cloud(dice, 4, 26, size))
    slope = dice.between(-0.45, 0.45) * (x - 0.5) + dice.between(-0.45, 0.45) * (y - 0.5)
    shade += wall * (slope + dice.between(0.0, 0.22) * cloud(dice, 6, 6, size))
    shade -= 0.32 * bare * shadow(classes, "hair hat glasses", side, size)
    shade -= 0.25 * wall * shadow(classes, "skin hair hat ears clothes neck beard", side, size)
    nose = bump(fx, fy, (1.15 * head.yaw - 0.03, 0.2 + head.pitch), (0.13, 0.13))
    shade += bare * 0.16 * nose
    rgb = rgb * shade[..., None]
    rosy = dice.between(0.1, 0.5)
    for cheek in (-0.52, 0.52):
        blush = bump(fx, fy, (cheek + 0.8 * head.yaw, 0.38 + 0.8 * head.pitch), (0.34, 0.27))
        rgb = rgb + (rosy * blush * bare)[..., None] * (np.float32([226, 92, 92]) - rgb)
    tint = np.float32([dice.between(0.88, 1.1) for _ in range(3)])
    return rgb * tint * (1 + 0.14 * (side * (x - 0.5) + up * (y - 0.5)))[..., None]


def cover(classes: Classes, parts: str) -> Field:
    """How much of each pixel is any of these parts."""
    table = np.zeros(len(PARTS), dtype=np.uint8)
    table[[NAMES.index(part) for part in parts.split()]] = 255
    small = Image.fromarray(table[classes]).reduce(FINE)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def shadow(classes: Classes, parts: str, side: float, size: int) -> Field:
    """A soft shadow of these parts, thrown down and away from the light."""
    dark = Image.fromarray(np.rint(cover(classes, parts) * 255).astype(np.uint8))
    right, down = round(-side * 0.04 * size), round(0.035 * size)
    dark = dark.crop((-right, -down, size - right, size - down)).filter(
        ImageFilter.BoxBlur(0.022 * size)
    )
    return np.asarray(dark, dtype=np.float32) / np.float32(255)


def bump(x: Field, y: Field, at: tuple[float, float], wide: tuple[float, float]) -> Field:
    """A smooth hill of height 1, from products alone: the same bits everywhere."""
    square = ((x - at[0]) / wide[0]) ** 2 + ((y - at[1]) / wide[1]) ** 2
    return np.maximum(0, 1 - square) ** 2


def cloud(dice: Dice, rows: int, columns: int, size: int) -> Field:
    """Smooth noise in [-1, 1] or a little beyond."""
    return np.asarray(
        Image.fromarray(dice.grid(rows, columns)).resize((size, size), Image.Resampling.BICUBIC)
    )
