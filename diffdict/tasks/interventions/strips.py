"""Pictures of a class off and on: under several amounts and windows, and latent by latent."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from diffdict.diffusion.chains.pairs import step_timesteps
from diffdict.reports.subjects import LabelledPictures, SteeredStrip
from diffdict.tasks.interventions.chains import EditedChains

Labels = Callable[[Tensor, list[int]], Int[Tensor, "batch h w"]]


class StripGrid(NamedTuple):
    """Under what a strip is drawn."""

    amounts: Sequence[float | int]
    windows: Sequence[list[int] | None]
    amount: float | int  # of latents one by one, in all timesteps


@torch.no_grad()
def draw_strip(
    chains: EditedChains,
    labels: Labels,
    concept: str,
    latents: Sequence[int],
    indices: list[int],
    images: Tensor | None,
    grid: StripGrid,
) -> SteeredStrip:
    """The pictures of these indices; `images`: those that were inverted."""
    if not indices:
        side = chains.net.image_size
        none = LabelledPictures(
            torch.zeros(0, 3, side, side), torch.zeros(0, side, side, dtype=torch.int64)
        )
        on = [[none] * len(grid.amounts) for _ in grid.windows]
        return SteeredStrip(concept, latents, indices, none, on, [none] * len(latents))
    levels = [chains.level(window) for window in grid.windows]
    every = chains.level(None)
    plain = chains.draw(indices, chains.begin(indices, images), record={*levels, every})

    def changed(
        chosen: Sequence[int], amount: float | int, window: Sequence[int] | None, level: int
    ) -> LabelledPictures:
        edits = chains.studied.edits(chosen, "scale", amount, window=window)
        on = chains.draw(indices, plain.states[level], edits, start=level).x
        return LabelledPictures(on.cpu(), labels(on, indices).cpu())

    return SteeredStrip(
        concept,
        latents,
        indices,
        LabelledPictures(plain.x.cpu(), labels(plain.x, indices).cpu()),
        [
            [changed(latents, amount, window, level) for amount in grid.amounts]
            for window, level in zip(grid.windows, levels, strict=True)
        ],
        [changed([latent], grid.amount, None, every) for latent in latents],
    )


def equal_windows(chains: EditedChains, number: int) -> list[list[int]]:
    """So many equal parts of the timesteps, without those in which no step of the chain lies."""
    steps = step_timesteps(chains.sampler, chains.process)
    if steps is None or number < 2:
        return []
    steps = steps[: chains.level(None) + 1]
    first, end = chains.net.first_timestep, int(chains.process.timesteps[-1]) + 1
    if chains.top is not None:
        end = steps[-1] + 1
    edges = [first + round(i * (end - first) / number) for i in range(number + 1)]
    windows = [[low, high] for low, high in pairwise(edges)]
    return [each for each in windows if any(each[0] <= t < each[1] for t in steps)]
