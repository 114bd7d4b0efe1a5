"""A picture's map through a dictionary: how much of each latent it has, and how strong at most."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from diffdict.features.store.shards import Stream
from diffdict.sae.base import Sae

POOLED = ("mean", "max")  # over the tokens of a picture
PIECE = 2**23  # codes at once: 32 MiB


def code_streams(streams: Sequence[Stream], latents: int) -> list[Stream]:
    """Each stream, then its codes as they are pooled, under the block's name and the way."""
    return [
        each
        for stream in streams
        for each in (
            stream,
            *(
                stream._replace(channels=latents, height=1, width=1, block=f"{stream.block}-{way}")
                for way in POOLED
            ),
        )
    ]


@torch.no_grad()
def code_vectors(
    maps: Sequence[Float[Tensor, "pictures _ _"]], sae: Sae
) -> list[Float32[Tensor, "pictures _"]]:
    """Each map's mean, then the mean and the largest of each latent's codes over its tokens."""
    vectors = []
    for tokens in maps:
        step = max(1, PIECE // (tokens.shape[1] * sae.latents))
        parts = [
            sae.encode(some.flatten(0, 1).float()).unflatten(0, some.shape[:2])
            for some in tokens.split(step)
        ]
        vectors += [
            tokens.float().mean(1),
            torch.cat([codes.float().mean(1) for codes in parts]),
            torch.cat([codes.float().amax(1) for codes in parts]),
        ]
    return vectors
