"""The noise under which a backbone sees pictures: the same stored, streamed and labelled."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block, Timestep


class Noise(NamedTuple):
    """The protocol: which noise a picture gets, and over how many draws features are averaged."""

    shared: bool = True  # one tensor for all pictures (Baranchuk et al. 2022), or one a picture
    seed: int = 0
    draws: int = 1
    device: str = "cpu"  # whose generator draws it: a GPU's gives other numbers for the same seed

    def facts(self) -> dict[str, bool | int | str]:
        """What a store says of it; nothing of the CPU, as stores did before there was a choice."""
        return {key: value for key, value in self._asdict().items() if value != "cpu"}

    def for_pictures(
        self, indices: Sequence[int], shape: tuple[int, int, int]
    ) -> Float[Tensor, "draws pictures channels height width"]:
        """The noise of these pictures: a single row for all when it is shared.

        It depends on the seed and the picture's index only, never on the batch.
        """
        if self.shared:
            return _shared(self.seed, self.draws, shape, self.device)[:, None]
        seeds = [np.random.SeedSequence([self.seed, int(index)]) for index in indices]
        states = [int(s.generate_state(1, np.uint64)[0]) for s in seeds]
        rows = [_draws(state, self.draws, shape, self.device) for state in states]
        return torch.stack(rows, dim=1)


@lru_cache(maxsize=4)
def _shared(
    seed: int, draws: int, shape: tuple[int, int, int], device: str
) -> Float[Tensor, "draws channels height width"]:
    return _draws(seed, draws, shape, device)


def _draws(
    seed: int, draws: int, shape: tuple[int, int, int], device: str
) -> Float[Tensor, "draws channels height width"]:
    """Drawn one after the other, so that more draws keep the first ones."""
    generator = torch.Generator(device).manual_seed(seed)
    noise = [torch.randn(shape, generator=generator, device=device) for _ in range(draws)]
    return torch.stack(noise).cpu()


def noised_features(
    net: Backbone,
    images: Float[Tensor, "batch _ height width"],
    indices: Sequence[int],
    timestep: Timestep,
    blocks: Sequence[Block],
    noise: Noise,
) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
    """The blocks' maps of these pictures, averaged in fp32 over the draws: one pass a draw."""
    if net.num_timesteps is None:
        return net.features(images, timestep, blocks)
    shape = net.noise_shape(tuple(images.shape[1:]))
    draws = noise.for_pictures(indices, shape).to(images.device)
    maps = net.features(images, timestep, blocks, draws[0])
    if noise.draws == 1:
        return maps
    sums = {block: x.float() for block, x in maps.items()}
    for draw in draws[1:]:
        for block, x in net.features(images, timestep, blocks, draw).items():
            sums[block] += x
    return {block: x / noise.draws for block, x in sums.items()}
