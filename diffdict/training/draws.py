"""What is drawn for a picture: its noise level and noise, from seeds that name it, not a stream."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.diffusion.objectives import Objective, draw_time
from diffdict.diffusion.process import Process
from diffdict.seeds import entropy

GOLDEN_RATIO = 0.6180339887498949  # frac(i × this) covers [0, 1) evenly for every number of i
TRAIN, JUDGE, DROPOUT, AUGMENT = range(4)  # which family of draws a seed opens


class Draws(NamedTuple):
    """What happens to a batch of pictures."""

    t: Int[Tensor, " batch"] | Float[Tensor, " batch"]  # positions of a chain, or noise levels
    noise: Float[Tensor, "batch channels height width"]


def draw_noising(
    images: Float[Tensor, "batch channels height width"],
    indices: Sequence[int],
    process: Process,
    objective: Objective,
    *words: int,
) -> Draws:
    """Noise level and noise of every picture, from (words, index) alone."""
    generator = torch.Generator(images.device)
    t, noise = [], []
    for index in indices:
        generator.manual_seed(entropy(*words, index))
        t.append(draw_time(objective, process, generator))
        noise.append(torch.randn(images.shape[1:], generator=generator, device=images.device))
    return Draws(torch.stack(t), torch.stack(noise))


def spread_shares(indices: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """A share for each picture by its index alone, evenly over [0, 1) for any number of them."""
    return indices.double() * GOLDEN_RATIO % 1
