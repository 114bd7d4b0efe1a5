"""A picture's map pooled: its dictionary's latents, random directions, and raw channels."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from rich.progress import track
from torch import Tensor

from diffdict.features.codes.pooled_codes import PIECE, POOLED
from diffdict.features.sources import Source
from diffdict.metrics.concepts.assignment import random_directions
from diffdict.sae.base import Sae

LATENTS, RANDOM, CHANNELS = "latents", "random", "channels"


class PooledFeatures:
    """Of pictures [pictures, features], the mean over tokens of each feature, then the largest."""

    def __init__(self, source: Source, sae: Sae, seed: int = 0) -> None:
        """Several maps of a picture are one, side by side, as the dictionary learned from them."""
        self.source, self.sae = source, sae
        width = sum(stream.channels for stream in source.streams)
        self.directions = random_directions(sae.latents, width, seed)

    @torch.no_grad()
    def of(self, pictures: Sequence[int]) -> dict[str, Float32[Tensor, "pictures _"]]:
        """By kind: the dictionary's latents, as many random directions, and the raw channels."""
        chunks: dict[str, list[Tensor]] = {LATENTS: [], RANDOM: [], CHANNELS: []}
        device = next(self.sae.parameters()).device
        first = self.source.streams[0]
        step = max(1, PIECE // (first.height * first.width * self.sae.latents))
        groups = [pictures[at : at + step] for at in range(0, len(pictures), step)]
        for rows in track(groups, "Attributes", disable=len(groups) < 2):
            x = torch.cat(self.source.maps(rows), dim=-1).float().to(device)
            codes = self.sae.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            for kind, maps in (
                (LATENTS, codes),
                (RANDOM, x @ self.directions.to(device).T),
                (CHANNELS, x),
            ):
                chunks[kind].append(pooled_tokens(maps).cpu())
        return {kind: torch.cat(parts) for kind, parts in chunks.items()}


def pooled_tokens(
    maps: Float[Tensor, "pictures tokens features"],
) -> Float[Tensor, "pictures _"]:
    """In the order of POOLED."""
    ways = {"mean": maps.mean(1), "max": maps.amax(1)}
    return torch.cat([ways[way] for way in POOLED], dim=1).float()
