"""What a change of a network does: to classes, counted by region, and to the latents switched."""

from diffdict.metrics.effects.class_effects import (
    ELSEWHERE,
    FEWEST,
    INSIDE,
    NEAR,
    EffectCounts,
    Effects,
    large_enough,
    rank_share,
    zones_of,
)

__all__ = [
    "ELSEWHERE",
    "FEWEST",
    "INSIDE",
    "NEAR",
    "EffectCounts",
    "Effects",
    "large_enough",
    "rank_share",
    "zones_of",
]
