"""The portraits of toy_faces: a face as a scene of parts, back to front."""

import math

import numpy as np

from diffdict.data.faces.light import Drawn, develop
from diffdict.data.faces.sketch import (
    CIRCLE,
    RAMP,
    Canvas,
    Colour,
    Dice,
    Head,
    Points,
    band,
    inside,
    oval,
)


def colours(words: str) -> list[Colour]:
    """Hexadecimal words as RGB."""
    return [np.array([*bytes.fromhex(word)], dtype=np.float64) for word in words.split()]


SKIN = colours("ffe0c6 f6cdaa e7b486 cb8f61 9d6742 704832")
HAIR = colours("2d262a 4e3428 7a4c2e b05c30 deb26c 969296")
PAINT = colours(
    "3a8a8c ea7460 e8b858 384878 b8c88e b6a2d6 e8a4ac 8ec0e2 a64e40 366450 f6ead2 744064"
)
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


def draw_face(dice: Dice, size: int) -> Drawn:
    """One portrait: uint8 picture [size, size, 3] and int64 mask [size, size]."""
    head, canvas = Head(dice), Canvas(size)
    skin = dice.paint(SKIN, SKIN, SKIN, SKIN, SKIN, PAINT)
    hair = dice.paint(HAIR, HAIR, HAIR, SKIN, PAINT)
    style = dice.pick(STYLES)
    draw_background(dice, canvas)
    draw_back_hair(dice, canvas, head, hair, style)
    draw_body(dice, canvas, head, skin)
    draw_skull(dice, canvas, head, skin)
    draw_beard(dice, canvas, head, hair)
    draw_nose(dice, canvas, head, skin)
    draw_mouth(dice, canvas, head, skin)
    draw_eyes(dice, canvas, head, skin, hair)
    draw_front_hair(dice, canvas, head, hair, style)
    draw_glasses(dice, canvas, head)
    draw_hat(dice, canvas, head)
    draw_hand(dice, canvas, head, skin)
    return develop(dice, canvas, head, size)


def add_pattern(dice: Dice, canvas: Canvas, region: int, part: str, colour: Colour, odds: float):
    """With these odds the region gets stripes, dots or checks in a second colour."""
    kind, angle = dice.pick(["stripes", "dots", "checks"]), dice.between(0.0, math.pi)
    period = dice.between(0.07, 0.16)
    if dice.chance(odds):
        other = canvas.region(part, colour)
        canvas.patterns.append((region, other, kind, (math.cos(angle), math.sin(angle), period)))


def draw_background(dice: Dice, canvas: Canvas) -> None:
    """A wall of one colour or two, sometimes printed, sometimes with things on it."""
    wall = canvas.region("background", dice.paint(PAINT, PAINT, SKIN, HAIR))
    add_pattern(dice, canvas, wall, "background", dice.paint(PAINT, SKIN, HAIR), 0.3)
    low = dice.between(0.45, 0.95)
    hill = canvas.region("background", dice.paint(PAINT, SKIN, HAIR))
    if dice.chance(0.4):
        xs = (RAMP + 1) / 2
        wave = low + dice.between(-0.12, 0.12) * RAMP + dice.between(-0.1, 0.1) * RAMP**2
        canvas.fill(band(xs * 1.1 - 0.05, wave, np.full_like(xs, 1.1)), hill)
    for _ in range(int(dice.between(0.0, 4.0))):
        thing = canvas.region("background", dice.paint(PAINT, SKIN, HAIR))
        x, y, r = dice.between(0.0, 1.0), dice.between(0.0, 0.8), dice.between(0.06, 0.2)
        corners = CIRCLE[dice.pick([slice(None), slice(None), slice(5, None, 10)])]
        canvas.fill(corners * (r, r * dice.between(0.8, 1.3)) + (x, y), thing)


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


def draw_body(dice: Dice, canvas: Canvas, head: Head, skin: Colour) -> None:
    """Neck, shoulders and what is worn on them."""
    unit, x = head.scale, head.x + dice.between(-0.03, 0.03) - head.sine * head.scale * 0.7
    top = head.y + unit * dice.between(1.33, 1.47)
    half = dice.between(0.42, 0.56)
    colour, trim = dice.paint(PAINT, PAINT, SKIN, HAIR), dice.paint(PAINT, SKIN, HAIR)
    neck, cloth = canvas.region("neck", skin * 0.93), canvas.region("clothes", colour)
    add_pattern(dice, canvas, cloth, "clothes", trim, 0.45)
    edge = canvas.region("clothes", trim)
    sides = np.array([[-half, -1.2], [half, -1.2], [half * 1.15, 0.3], [-half * 1.15, 0.3]])
    canvas.fill(sides * unit + (x, top), neck)
    wide, drop = dice.between(1.8, 2.3), dice.between(0.12, 0.32)
    slope = np.abs(RAMP) ** 1.5 * drop + np.maximum(np.abs(RAMP) - 0.8, 0) * 4
    shoulders = band(RAMP * wide, slope - 0.08, np.full_like(RAMP, 4.0))
    canvas.fill(shoulders * unit + (x, top), cloth)
    collar = dice.pick(["round", "vee", "roll", "shirt"])
    if collar == "round":
        canvas.fill(oval(0.0, -0.08, half * 1.35, 0.34) * unit + (x, top), edge)
        canvas.fill(oval(0.0, -0.12, half * 1.15, 0.26) * unit + (x, top), neck)
    elif collar == "vee":
        vee = np.array([[-half * 1.1, -0.2], [half * 1.1, -0.2], [0, dice.between(0.4, 0.8)]])
        canvas.fill(vee * unit + (x, top), neck)
    elif collar == "roll":
        canvas.fill(oval(0.0, -0.1, half * 1.2, 0.3) * unit + (x, top), edge)
    else:
        for side in (-1, 1):
            flap = np.array([[0, 0.1], [half * 1.2, -0.42], [half * 1.75, 0.0], [half * 0.9, 0.48]])
            canvas.fill(flap * (side, 1) * unit + (x, top), edge)


def draw_skull(dice: Dice, canvas: Canvas, head: Head, skin: Colour) -> None:
    """Ears and the bare face."""
    ear, inner = (
        canvas.region("ears", skin * 0.96),
        canvas.region("ears", skin * (0.84, 0.76, 0.76)),
    )
    size = dice.between(0.22, 0.32)
    for side in (-1, 1):
        x = side * (1.04 - 0.4 * max(0.0, side * head.yaw))
        canvas.fill(head.flat(oval(x, 0.05, size * 0.85, size * 1.15)), ear)
        canvas.fill(head.flat(oval(x + side * 0.05, 0.05, size * 0.4, size * 0.65)), inner)
    canvas.fill(head.flat(head.outline()), canvas.region("skin", skin))


def draw_beard(dice: Dice, canvas: Canvas, head: Head, hair: Colour) -> None:
    """A full beard, a goatee or a moustache on about every third face."""
    beard = canvas.region("beard", hair * dice.between(0.8, 1.05))
    kind, high, drop = (
        dice.pick(["full", "full", "goatee", "moustache"]),
        dice.between(0.2, 0.5),
        dice.between(1.0, 1.15),
    )
    if not dice.chance(0.38):
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


def draw_nose(dice: Dice, canvas: Canvas, head: Head, skin: Colour) -> None:
    """A drop: narrow between the eyes, round at the tip."""
    rx, ry, y = dice.between(0.15, 0.21), dice.between(0.15, 0.2), dice.between(0.2, 0.28)
    top = dice.between(0.02, 0.3)
    drop = oval(0.0, y, rx, ry)
    drop = np.where(drop[:, 1:] < y, (drop - (0, y)) * (0.6, top / ry + 1.0) + (0, y), drop)
    nose = canvas.region("nose", skin * (0.95, 0.86, 0.85))
    bulge = (head.yaw * 0.18, 0.0)  # the tip stands out of the face
    canvas.fill(head.place(drop + bulge), nose)


def draw_mouth(dice: Dice, canvas: Canvas, head: Head, skin: Colour) -> None:
    """Lips, closed or open on teeth and tongue."""
    lips = canvas.region(
        "lips",
        dice.pick(
            [skin * (0.88, 0.62, 0.62), np.array([205.0, 70, 80]), np.array([170.0, 60, 80])]
        ),
    )
    dark, tongue = (
        canvas.region("mouth", np.array([92.0, 30, 40])),
        canvas.region("mouth", np.array([214.0, 96, 100])),
    )
    teeth = canvas.region("mouth", np.array([250.0, 246, 238]))
    wide, smile, y = dice.between(0.34, 0.5), dice.between(0.03, 0.22), dice.between(0.66, 0.74)
    gape, thick = dice.between(0.14, 0.36), dice.between(0.09, 0.13)
    curve, arch = y - smile * (RAMP**2 - 0.5), np.sqrt(1 - RAMP**2)
    if not dice.chance(0.7):
        canvas.fill(
            head.place(band(RAMP * wide, curve - thick * arch, curve + thick * 1.4 * arch)), lips
        )
        canvas.stroke(
            head.place(np.stack([RAMP * wide, curve], 1)),
            canvas.region("lips", skin * (0.5, 0.34, 0.36)),
            0.008,
        )
        return
    canvas.fill(
        head.place(band(RAMP * wide, curve - thick * arch, curve + (gape + thick) * arch)), lips
    )
    inside = 0.82 * wide * RAMP
    canvas.fill(head.place(band(inside, curve, curve + gape * arch)), dark)
    canvas.fill(
        head.place(band(inside * 0.6, curve + gape * 0.62, curve + gape * (0.62 + 0.34 * arch))),
        tongue,
    )
    canvas.fill(head.place(band(inside * 0.96, curve, curve + gape * 0.5 * arch)), teeth)


def draw_eyes(dice: Dice, canvas: Canvas, head: Head, skin: Colour, hair: Colour) -> None:
    """Two eyes that look the same way, some with heavy lids; now and then a wink."""
    white = canvas.region("eyes", np.array([252.0, 250, 246]))
    lash = canvas.region("eyes", np.array([50.0, 36, 40]))
    lid = canvas.region("skin", skin * (0.9, 0.84, 0.84))
    iris = canvas.region("iris", dice.paint(PAINT, HAIR, HAIR))
    pupil = canvas.region("iris", np.array([22.0, 18, 24]))
    spark = canvas.region("iris", np.full(3, 255.0))
    apart, y = dice.between(0.4, 0.46), dice.between(-0.08, 0.02)
    rx, ry, r = dice.between(0.23, 0.29), dice.between(0.2, 0.28), dice.between(0.165, 0.2)
    look = np.array([dice.between(-0.07, 0.07), dice.between(-0.04, 0.05)])
    discs = [(r, look, iris), (r * 0.52, look, pupil), (r * 0.32, look - (0.06, 0.07), spark)]
    droop = dice.between(0.35, 0.6) * dice.chance(0.3)
    wink = dice.pick([-1, 1]) if dice.chance(0.06) else 0
    draw_brows(dice, canvas, head, hair, np.array([[-apart, y], [apart, y]]))
    arc = np.stack([RAMP * rx * 1.06, -ry * np.sqrt(1 - RAMP**2)], 1)
    for side in (-1, 1):
        centre = np.array([side * apart, y])
        if side == wink:
            canvas.stroke(head.place(arc * (1, 0.6) + centre + (0, 0.06)), lash, head.scale * 0.12)
            continue
        canvas.fill(head.place(oval(*centre, rx, ry)), white)
        for radius, at, region in discs:
            canvas.fill(head.place(inside(CIRCLE * radius + at, rx, ry) + centre), region)
        lower = arc * (1, 1 - droop)
        if droop:
            canvas.fill(head.place(np.concatenate([arc, lower[::-1]]) + centre), lid)
        canvas.stroke(head.place(lower + centre), lash, head.scale * 0.06)


def draw_brows(dice: Dice, canvas: Canvas, head: Head, hair: Colour, eyes: Points) -> None:
    """Two arcs over the eyes, thicker towards the nose."""
    brow = canvas.region("brows", hair * dice.between(0.55, 0.9))
    lift, slant = dice.between(0.38, 0.48), dice.between(-0.02, 0.14)
    thick = dice.between(0.062, 0.09)
    for side, eye in zip((-1, 1), eyes, strict=True):
        bend = -lift + slant * RAMP * side + 0.14 * RAMP**2
        half = thick * (1.1 - 0.4 * RAMP * side)
        canvas.fill(head.place(band(RAMP * 0.27, bend - half, bend + half) + eye), brow)


def draw_front_hair(dice: Dice, canvas: Canvas, head: Head, hair: Colour, style: str) -> None:
    """What falls over the forehead and the temples."""
    front, lock = canvas.region("hair", hair), canvas.region("hair", hair * 1.14 + 6)
    line, part, temple = (
        dice.between(-0.9, -0.66),
        dice.between(-0.6, 0.6),
        dice.between(-0.3, 0.15),
    )
    if style == "bald":
        return
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


def draw_glasses(dice: Dice, canvas: Canvas, head: Head) -> None:
    """Round or square frames, clear or dark, on about every third face."""
    frame = canvas.region("glasses", dice.paint(HAIR, PAINT))
    lens = canvas.region("glasses", np.array([52.0, 50, 64]))
    shape, r, width = dice.pick([1.0, 0.6]), dice.between(0.34, 0.4), dice.between(0.085, 0.12)
    dark = dice.chance(0.2)
    if not dice.chance(0.36):
        return
    rim = np.sign(CIRCLE) * np.abs(CIRCLE) ** shape * (r, r * 0.88)
    rim = np.concatenate([rim, rim[:2]])
    for side in (-1, 1):
        eye = rim + np.array([side * 0.44, -0.02])
        if dark:
            canvas.fill(head.place(eye), lens)
        canvas.stroke(head.place(eye), frame, head.scale * width)
        arm = np.array([[side * (0.42 + r), -0.06], [side * 1.0, -0.1]])
        canvas.stroke(head.place(arm), frame, head.scale * width)
    canvas.stroke(
        head.place(np.array([[-0.12, -0.04], [0, -0.09], [0.12, -0.04]])), frame, head.scale * width
    )


def draw_hat(dice: Dice, canvas: Canvas, head: Head) -> None:
    """A beanie, a brimmed hat, a cap or a party cone, on about every third face."""
    colour, trim = dice.paint(PAINT, PAINT, HAIR, SKIN), dice.paint(PAINT, SKIN, HAIR)
    hat = canvas.region("hat", colour)
    kind, y, tall = (
        dice.pick(["beanie", "brim", "cap", "cone"]),
        dice.between(-0.78, -0.6),
        dice.between(1.5, 1.75),
    )
    if not dice.chance(0.36):
        return
    add_pattern(dice, canvas, hat, "hat", trim, 0.4)
    edge = canvas.region("hat", trim)
    arch = np.sqrt(1 - RAMP**2)
    low = y + 0.12 * arch
    if kind == "cone":
        cone = np.array(
            [[-0.6, -0.95], [0, -2.3], [0.6, -0.95], [0.3, -0.85], [0, -0.82], [-0.3, -0.85]]
        )
        canvas.fill(head.flat(cone), hat)
        canvas.fill(head.flat(oval(0.0, -2.3, 0.2, 0.2)), edge)
        return
    power = arch**0.6 if kind == "brim" else arch
    canvas.fill(head.flat(band(RAMP * 1.12, y - (tall + y) * power, low)), hat)
    if kind == "beanie":
        canvas.fill(head.flat(oval(0.0, -tall - 0.1, 0.24, 0.24)), edge)
        canvas.fill(head.flat(band(RAMP * 1.18, low - 0.2 - 0.1 * arch, low + 0.12)), edge)
    if kind == "brim":
        canvas.fill(head.flat(band(RAMP * 1.12, low - 0.25, low)), edge)
        canvas.fill(head.flat(oval(0.0, y + 0.06, 1.7, 0.24)), hat)
    if kind == "cap":
        canvas.fill(head.flat(oval(head.yaw * 1.4, y + 0.12, 0.85, 0.24)), edge)


def draw_hand(dice: Dice, canvas: Canvas, head: Head, skin: Colour) -> None:
    """Some wave."""
    palm = canvas.region("skin", skin * 0.97)
    side, x, y, tilt = (
        dice.pick([-1, 1]),
        dice.between(1.25, 1.6),
        dice.between(0.7, 1.3),
        dice.between(-0.2, 0.5),
    )
    if not dice.chance(0.16):
        return
    at = np.array([x * side, y])
    canvas.fill(head.flat(oval(*at, 0.3, 0.34)), palm)
    for finger in (-0.6, -0.2, 0.2, 0.55, 1.35):
        angle = (finger + tilt) * -side
        tip = at + np.array([math.sin(angle), -math.cos(angle)]) * (0.72 if finger < 1 else 0.58)
        canvas.stroke(head.flat(np.stack([at, tip])), palm, head.scale * 0.19)
        canvas.fill(head.flat(oval(*tip, 0.095, 0.095)), palm)
