"""What toy faces wear: clothes, glasses and hats, some of them printed."""

import numpy as np

from diffdict.data.faces.paint import HAIR, PAINT, SKIN, add_pattern, lightness
from diffdict.data.faces.sketch import CIRCLE, RAMP, Canvas, Colour, Dice, Head, band, oval
from diffdict.data.faces.traits import Traits

HATS = {"beanie": "beanie", "brim": "brimmed_hat", "cap": "cap", "cone": "party_hat"}
UNDER_HATS = ("bald", "bangs", "bun", "spikes")  # what is seen of hair beside a hat tells none
BEHIND_DARK_GLASSES = ("wink", "heavy_lids")


def draw_body(dice: Dice, canvas: Canvas, head: Head, skin: Colour, traits: Traits) -> None:
    """Neck, shoulders and what is worn on them."""
    unit, x = head.scale, head.x + dice.between(-0.03, 0.03) - head.sine * head.scale * 0.7
    top = head.y + unit * dice.between(1.33, 1.47)
    half = dice.between(0.42, 0.56)
    colour, trim = dice.paint(PAINT, PAINT, SKIN, HAIR), dice.paint(PAINT, SKIN, HAIR)
    neck, cloth = canvas.region("neck", skin * 0.93), canvas.region("clothes", colour)
    printed = add_pattern(dice, canvas, cloth, "clothes", trim, 0.45)
    traits.add(printed_clothes=printed, clothes_lightness=lightness(colour))
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


def draw_glasses(dice: Dice, canvas: Canvas, head: Head, traits: Traits) -> None:
    """Round or square frames, clear or dark, on about every third face."""
    frame = canvas.region("glasses", dice.paint(HAIR, PAINT))
    lens = canvas.region("glasses", np.array([52.0, 50, 64]))
    shape, r, width = dice.pick([1.0, 0.6]), dice.between(0.34, 0.4), dice.between(0.085, 0.12)
    dark = dice.chance(0.2)
    worn = dice.chance(0.36)
    traits.add(glasses=worn, dark_glasses=worn and dark)
    if not worn:
        return
    if dark:
        traits.hide(*BEHIND_DARK_GLASSES)
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


def draw_hat(dice: Dice, canvas: Canvas, head: Head, traits: Traits) -> None:
    """A beanie, a brimmed hat, a cap or a party cone, on about every third face."""
    colour, trim = dice.paint(PAINT, PAINT, HAIR, SKIN), dice.paint(PAINT, SKIN, HAIR)
    hat = canvas.region("hat", colour)
    kind, y, tall = (
        dice.pick(["beanie", "brim", "cap", "cone"]),
        dice.between(-0.78, -0.6),
        dice.between(1.5, 1.75),
    )
    worn = dice.chance(0.36)
    traits.add(hat=worn, **{name: worn and kind == each for each, name in HATS.items()})
    if not worn:
        return
    if kind != "cone":  # which stands on the hair
        traits.hide(*UNDER_HATS)
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
