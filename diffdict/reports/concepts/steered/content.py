"""What a page of steered concepts shows: plain figures and bytes, computed elsewhere."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class LabelledFile(NamedTuple):
    """A picture and its labels in colours, as PNG or JPEG files."""

    picture: bytes
    labels: bytes


class EffectFigures(NamedTuple):
    """What one edit did to a class; None, like NaN, is shown as a dash."""

    edit: str  # latents, or a control's name
    amount: float | None
    kept: float | None
    error: float | None
    area: float | None
    outside: float | None
    rms: float | None
    became: str | None
    p: float | None = None


class SteeredSeed(NamedTuple):
    """One picture off, and on by window and amount."""

    name: str  # said under it
    off: LabelledFile
    on: Sequence[Sequence[LabelledFile]]  # windows × amounts


class SteeredLatent(NamedTuple):
    """A latent that is changed alone, in the same pictures."""

    number: int
    density: float | None
    kept: float | None  # on those pictures
    rms: float | None
    on: Sequence[LabelledFile]  # one for each seed


class SteeredConcept(NamedTuple):
    """A class, what became of it, and pictures that show it."""

    name: str
    colour: Sequence[int]  # red, green, blue, 0 to 255
    effects: Sequence[EffectFigures]  # its own latents' first
    seeds: Sequence[SteeredSeed]
    latents: Sequence[SteeredLatent]


class SteeringContent(NamedTuple):
    """All that a page shows."""

    title: str
    key: str  # tells dictionaries apart: names given by hand are kept under it
    facts: Mapping[str, str | int | float | None]
    amounts: Sequence[float]
    windows: Sequence[str]  # as they are said
    amount: float  # at which the figures were measured
    concepts: Sequence[SteeredConcept]
