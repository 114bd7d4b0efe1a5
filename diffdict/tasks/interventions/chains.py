"""Chains that a network goes along plainly and with its block edited, by index the same noise.

They begin with noise, or with pictures that were inverted up to a level.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.denoiser import Edits, Given
from diffdict.diffusion.chains.inversion import PICTURE_LEVEL
from diffdict.diffusion.chains.pairs import level_of, window_level
from diffdict.diffusion.objectives import Objective, denoising_losses
from diffdict.diffusion.samplers import ddim, ddim_invert, length, own_noise
from diffdict.errors import UserError
from diffdict.features.codes.studied_dictionary import StudiedDictionary
from diffdict.tasks.sampling.sample_folder import check_noise_start

NOISED = 3  # after the seed: whose noise is put on what was drawn


class DrawnChain(NamedTuple):
    """Where a chain ended, as a picture in [-1, 1], and where it was asked to be remembered."""

    x: Float[Tensor, "batch 3 h w"]
    states: dict[int, Tensor]


class EditedChains:
    """Draws pictures of these indices with a dictionary's network, edited or not."""

    def __init__(
        self,
        studied: StudiedDictionary,
        sampler: partial,
        objective: Objective,
        seed: int,
        *,
        level: int | None = None,
        label: int | None = None,
    ) -> None:
        """`level`: a timestep that pictures are inverted to; None: chains begin with noise."""
        self.studied, self.net, self.process = studied, studied.net, studied.net.process
        self.sampler, self.objective, self.seed, self.label = sampler, objective, seed, label
        self.top = None if level is None else level_of(level, sampler, self.process)
        if level is None:
            check_noise_start(sampler)
        else:
            check_invertible(sampler)
            if self.net.condition.classes is not None and label is None:
                raise UserError(f"{self.net.name} is told the class of each picture: model.label=0")
            keys = {"respacing": sampler.keywords.get("respacing", ""), "clip_denoised": False}
            self.sampler, self.up = partial(ddim, **keys), partial(ddim_invert, **keys)

    def level(self, window: Sequence | None) -> int:
        """Where a chain that is changed in this window alone leaves the plain one."""
        return window_level(window, self.sampler, self.process, self.top)

    @torch.no_grad()
    def begin(self, indices: Sequence[int], images: Tensor | None = None) -> Tensor:
        """What the chains of these indices begin with: noise, or the pictures inverted."""
        device = next(self.net.parameters()).device
        if self.top is None:
            noise = self._noise(indices)(length(self.sampler, self.process))
            return self.process.start(noise.to(device))
        ends = {"start": PICTURE_LEVEL, "stop": self.top}
        net, objective = self._with(indices, None), self.objective
        return self.up(net, images.to(device), self.process, objective=objective, **ends).x

    @torch.no_grad()
    def draw(
        self,
        indices: Sequence[int],
        x: Tensor,
        edits: Edits | None = None,
        *,
        start: int | None = None,
        record: Collection[int] = (),
    ) -> DrawnChain:
        """From x, at the level `start` (where chains begin), to the picture."""
        start = self.top if start is None else start
        ends = {} if start is None else {"start": start}
        ends |= {} if self.top is None else {"stop": PICTURE_LEVEL}
        if self.top is None:
            ends["noise"] = self._noise(indices)
        chain = self.sampler(
            self._with(indices, edits),
            x,
            self.process,
            objective=self.objective,
            record=set(record),
            **ends,
        )
        return DrawnChain(chain.x.float().clamp(-1, 1), chain.states)

    @torch.no_grad()
    def losses(
        self, indices: Sequence[int], images: Tensor, timesteps: Sequence[int]
    ) -> Float[Tensor, "timesteps batch"]:
        """The plain network's loss on pictures noised again, in noise of their own."""
        noise, losses = self._noise(indices, NOISED), []
        for t in timesteps:
            place = torch.full((len(images),), t - self.net.first_timestep, device=images.device)
            given = self._with(indices, None), images, place, noise(t).to(images)
            losses.append(denoising_losses(self.objective, self.process, *given).mse)
        return torch.stack(losses)

    def given(self, indices: Sequence[int]) -> Given:
        """The class of each picture, as task=samples gives it."""
        classes, device = self.net.condition.classes, next(self.net.parameters()).device
        if classes is None:
            return Given()
        labels = torch.tensor(list(indices), device=device) % classes
        return Given(label=labels if self.label is None else torch.full_like(labels, self.label))

    def _with(self, indices: Sequence[int], edits: Edits | None) -> Callable:
        return partial(self.net, given=self.given(indices), edits=edits)

    def _noise(self, indices: Sequence[int], after: int = 0) -> Callable[[int], Tensor]:
        shape = (3, *[self.net.image_size] * 2)
        return own_noise(self.seed + after, list(indices), shape)


def check_invertible(sampler: partial) -> None:
    """Refuses a sampler whose steps have noise of their own, which no way back undoes."""
    eta = sampler.keywords.get("eta", 0)
    if sampler.func is not ddim or eta > 0:
        raise UserError(
            "pictures= are inverted by ddim without noise of its own, got "
            f"{sampler.func.__name__} with eta={eta}: sampler=ddim sampler.eta=0"
        )


def check_picture_size(picture_size: int | None, side: int, name: str) -> None:
    """Refuses pictures of another size than the network draws."""
    if picture_size not in (None, side):
        raise UserError(
            f"{name} draws {side}×{side}, the pictures are {picture_size}×{picture_size}: "
            f"dataset.image_size={side}"
        )
