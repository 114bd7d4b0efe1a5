"""What a toy face shows: its attributes, noted by the drawing while it draws."""

import numpy as np

from diffdict.data.attributes import NEGATED, SAME, Attribute

BINARY = (
    *("glasses", "dark_glasses", "hat", "beanie", "brimmed_hat", "cap", "party_hat"),
    *("beard", "full_beard", "goatee", "moustache", "waving", "wink", "heavy_lids", "open_mouth"),
    *("bald", "bangs", "long_hair", "curls", "bun", "spikes", "dark_hair", "dark_skin"),
    *("painted_skin", "printed_wall", "printed_clothes"),
)
BINARY_SIDES = ("looks_right", "tilts_right", "lit_from_right")  # as the picture is seen
NUMBERS = (
    *("pitch", "size", "place_y", "light_y", "smile", "gape"),
    *("skin_lightness", "hair_lightness", "wall_lightness", "clothes_lightness"),
)
NUMBER_SIDES = ("yaw", "tilt", "place_x", "light_x")  # to the right they are positive
TRAITS = (
    *(Attribute(name, "binary", SAME) for name in BINARY),
    *(Attribute(name, "binary", NEGATED) for name in BINARY_SIDES),
    *(Attribute(name, "number", NEGATED) for name in NUMBER_SIDES),
    *(Attribute(name, "number", SAME) for name in NUMBERS),
)


PLACES = {attribute.name: place for place, attribute in enumerate(TRAITS)}


class Traits:
    """The attributes of one face; what is not drawn, or hidden by what is, stays unknown."""

    def __init__(self) -> None:
        self.values = np.full(len(TRAITS), np.nan, dtype=np.float32)

    def add(self, **values: float | bool) -> None:
        """Notes what has just been drawn."""
        for name, value in values.items():
            self.values[PLACES[name]] = value

    def hide(self, *names: str) -> None:
        """Something was drawn over these."""
        self.add(**dict.fromkeys(names, np.nan))
