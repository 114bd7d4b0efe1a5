"""Concepts off and on, beside what their controls do, as one HTML page, offline."""

from diffdict.reports.concepts.steered.content import (
    EffectFigures,
    LabelledFile,
    SteeredConcept,
    SteeredLatent,
    SteeredSeed,
    SteeringContent,
)
from diffdict.reports.concepts.steered.render import WrittenStrips, write_steering_page

__all__ = [
    "EffectFigures",
    "LabelledFile",
    "SteeredConcept",
    "SteeredLatent",
    "SteeredSeed",
    "SteeringContent",
    "WrittenStrips",
    "write_steering_page",
]
