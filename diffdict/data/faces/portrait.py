"""The portraits of toy_faces: a face as a scene of parts, back to front."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from diffdict.data.faces.clothing import draw_body, draw_glasses, draw_hat
from diffdict.data.faces.hair import STYLES, draw_back_hair, draw_beard, draw_front_hair
from diffdict.data.faces.light import develop
from diffdict.data.faces.paint import HAIR, PAINT, SKIN, add_pattern, lightness
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
from diffdict.data.faces.traits import Traits

DARK_SKIN = 0.5  # the two darkest of SKIN, and dark paint


class Portrait(NamedTuple):
    """One portrait."""

    picture: UInt8[np.ndarray, "side side 3"]
    mask: Int64[np.ndarray, "side side"]
    traits: Float32[np.ndarray, " traits"]  # in the order of TRAITS; NaN: not to be seen


def draw_face(dice: Dice, size: int) -> Portrait:
    """One portrait at this size, and what it shows."""
    head, canvas, traits = Head(dice), Canvas(size), Traits()
    skin, box = dice.paint_from(SKIN, SKIN, SKIN, SKIN, SKIN, PAINT)
    hair = dice.paint(HAIR, HAIR, HAIR, SKIN, PAINT)
    style = dice.pick(STYLES)
    describe_head(head, traits)
    shade = lightness(skin)
    traits.add(painted_skin=box is PAINT, dark_skin=shade < DARK_SKIN, skin_lightness=shade)
    draw_background(dice, canvas, traits)
    draw_back_hair(dice, canvas, head, hair, style)
    draw_body(dice, canvas, head, skin, traits)
    draw_skull(dice, canvas, head, skin)
    draw_beard(dice, canvas, head, hair, traits)
    draw_nose(dice, canvas, head, skin)
    draw_mouth(dice, canvas, head, skin, traits)
    draw_eyes(dice, canvas, head, skin, hair, traits)
    draw_front_hair(dice, canvas, head, hair, style, traits)
    draw_glasses(dice, canvas, head, traits)
    draw_hat(dice, canvas, head, traits)
    draw_hand(dice, canvas, head, skin, traits)
    return Portrait(*develop(dice, canvas, head, size), traits.values)


def describe_head(head: Head, traits: Traits) -> None:
    """Where it is, how it is turned, and from where the light falls on it."""
    (right, down), tilt = head.light, math.atan2(head.sine, head.cosine)
    traits.add(yaw=head.yaw, pitch=head.pitch, tilt=tilt, size=head.scale)
    traits.add(place_x=head.x - 0.5, place_y=head.y - 0.5, light_x=right, light_y=down)
    traits.add(looks_right=head.yaw > 0, tilts_right=tilt > 0, lit_from_right=right > 0)


def draw_background(dice: Dice, canvas: Canvas, traits: Traits) -> None:
    """A wall of one colour or two, sometimes printed, sometimes with things on it."""
    colour = dice.paint(PAINT, PAINT, SKIN, HAIR)
    wall = canvas.region("background", colour)
    printed = add_pattern(dice, canvas, wall, "background", dice.paint(PAINT, SKIN, HAIR), 0.3)
    traits.add(printed_wall=printed, wall_lightness=lightness(colour))
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


def draw_nose(dice: Dice, canvas: Canvas, head: Head, skin: Colour) -> None:
    """A drop: narrow between the eyes, round at the tip."""
    rx, ry, y = dice.between(0.15, 0.21), dice.between(0.15, 0.2), dice.between(0.2, 0.28)
    top = dice.between(0.02, 0.3)
    drop = oval(0.0, y, rx, ry)
    drop = np.where(drop[:, 1:] < y, (drop - (0, y)) * (0.6, top / ry + 1.0) + (0, y), drop)
    nose = canvas.region("nose", skin * (0.95, 0.86, 0.85))
    bulge = (head.yaw * 0.18, 0.0)  # the tip stands out of the face
    canvas.fill(head.place(drop + bulge), nose)


def draw_mouth(dice: Dice, canvas: Canvas, head: Head, skin: Colour, traits: Traits) -> None:
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
    is_open = dice.chance(0.7)
    traits.add(open_mouth=is_open, gape=gape if is_open else 0.0, smile=smile)
    if not is_open:
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


def draw_eyes(
    dice: Dice, canvas: Canvas, head: Head, skin: Colour, hair: Colour, traits: Traits
) -> None:
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
    traits.add(heavy_lids=droop > 0, wink=wink != 0)
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


def draw_hand(dice: Dice, canvas: Canvas, head: Head, skin: Colour, traits: Traits) -> None:
    """Some wave."""
    palm = canvas.region("skin", skin * 0.97)
    side, x, y, tilt = (
        dice.pick([-1, 1]),
        dice.between(1.25, 1.6),
        dice.between(0.7, 1.3),
        dice.between(-0.2, 0.5),
    )
    waving = dice.chance(0.16)
    traits.add(waving=waving)
    if not waving:
        return
    at = np.array([x * side, y])
    canvas.fill(head.flat(oval(*at, 0.3, 0.34)), palm)
    for finger in (-0.6, -0.2, 0.2, 0.55, 1.35):
        angle = (finger + tilt) * -side
        tip = at + np.array([math.sin(angle), -math.cos(angle)]) * (0.72 if finger < 1 else 0.58)
        canvas.stroke(head.flat(np.stack([at, tip])), palm, head.scale * 0.19)
        canvas.fill(head.flat(oval(*tip, 0.095, 0.095)), palm)
