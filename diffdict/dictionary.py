"""From a picture to concepts: a learned dictionary with the backbone that it looks through."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.carded import carded_backbone
from diffdict.data.pictures import fit_picture
from diffdict.diffusion.chains.pairs import Branch, draw_pairs, level_of, redraw_pairs, window_level
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import noiseless, own_noise
from diffdict.errors import UserError, at_least
from diffdict.features.codes.studied_dictionary import StudiedDictionary
from diffdict.features.noise import Noise
from diffdict.features.normalisation import carded_normalisation
from diffdict.features.one_picture import OnePicture, open_picture
from diffdict.features.sources import LiveSource
from diffdict.features.tokens.pool import LivePool
from diffdict.sae.base import Sae
from diffdict.sae.card import read_dictionary
from diffdict.sae.sparse import Codes

STEPS, LEVEL = 50, 400  # of a chain that steers; the timestep to which a picture is inverted
PictureInput = str | Path | Image.Image | Tensor  # a tensor is [3, side, side] in [-1, 1]


class Seen(NamedTuple):
    """What a dictionary sees in one picture."""

    codes: Codes  # a token for each position, row after row
    maps: Float[Tensor, "latents height width"]  # the same codes, where they are
    grid: tuple[int, int]


class Steered(NamedTuple):
    """The same pictures without and with the change, in [-1, 1]."""

    off: Float[Tensor, "pictures 3 side side"]
    on: Float[Tensor, "pictures 3 side side"]


class Dictionary:
    """A sparse autoencoder, its card, and the frozen backbone whose tokens it was learned on."""

    def __init__(self, sae: Sae, card: Mapping, device: str | torch.device = "cpu") -> None:
        """The backbone is built when the first picture comes."""
        self.device = torch.device(device)
        self.sae, self.card = sae.eval().requires_grad_(False).to(self.device), dict(card)

    @classmethod
    def load(
        cls, path: str | Path, name: str | None = None, device: str | torch.device = "cpu"
    ) -> "Dictionary":
        """From an exported folder, a run's folder, a checkpoint of task=sae, or another's file.

        hf://user/name is one on the Hugging Face hub, hf://user/name@v1 a revision of it.
        `name` chooses among dictionaries that were learned side by side: scale20.
        """
        return cls(*read_dictionary(path, name), device)

    @torch.no_grad()
    def encode(self, picture: PictureInput, *, stream: str | None = None, index: int = 0) -> Seen:
        """The codes of a picture, prepared and noised as those that the dictionary learned from.

        `stream` (t0150-b06) says what to look at where several were stacked in training; `index` is
        the picture's number where each had noise of its own (noise.shared=false).
        """
        source = self.source
        source.dataset.image = self._prepared(picture)
        pool = LivePool(source, [index], self.card.get("mix", "concat"), 1)
        if pool.width != self.sae.d_in:
            raise UserError(
                f"The card's timestep={self.card['timestep']} and block={self.card['block']} give "
                f"tokens of width {pool.width}, the dictionary takes {self.sae.d_in}: "
                f"card and weights are not of one export"
            )
        tokens = torch.empty(pool.strip, pool.width, device=self.device)
        pool.fill(torch.tensor([0]), tokens)
        first = self._stream(pool, stream) * pool.positions
        codes = self.sae.encode_sparse(tokens[first : first + pool.positions])
        grid = source.streams[0].height, source.streams[0].width
        return Seen(codes, codes.dense(self.sae.latents).T.unflatten(1, grid), grid)

    def decode(
        self, codes: Codes | Float[Tensor, "tokens latents"]
    ) -> Float[Tensor, "tokens d_in"]:
        """The raw tokens that codes stand for."""
        return self.sae.decode(codes)

    @torch.no_grad()
    def steer(
        self,
        latents: Sequence[int],
        amount: float | int = -2.0,
        *,
        picture: PictureInput | None = None,
        number: int = 8,
        seed: int = 0,
        window: Sequence[int] | None = None,
        where: Tensor | None = None,
    ) -> Steered:
        """Pictures drawn with these latents' codes × amount, beside the same ones left alone.

        `number` of them from noise; or `picture`, inverted to timestep 400 and drawn again. Latents
        are named by their numbers in the tables and last.ckpt, whichever was loaded. `window`:
        [from, to) in timesteps. `where`: a mask of the picture's size.
        """
        at_least(1, "steer", number=number)
        net, process = self.studied.net, self.studied.net.process
        edits = self.studied.edits(latents, "scale", amount, where=where, window=window)
        sampler, objective = noiseless(process, STEPS), Objective(net.predict, "fixed_small")
        noise = own_noise(seed, range(number), (3, net.image_size, net.image_size))
        classes = net.condition.classes
        if classes is not None and picture is not None:
            raise UserError(f"{net.name} is told a picture's class: steer samples, with number=")
        given = None if classes is None else torch.arange(number, device=self.device) % classes
        plain, changed = (partial(net, given=given, edits=edit) for edit in (None, edits))
        start = None if picture is None else level_of(LEVEL, sampler, process)
        branch = [Branch(changed, window_level(window, sampler, process, start))]
        if start is not None:
            image = self._prepared(picture)[None].to(self.device)
            pair = redraw_pairs(
                plain, branch, image, process, sampler, objective=objective, level=start
            )
        else:
            x = process.start(noise(STEPS).to(self.device))
            pair = draw_pairs(plain, branch, x, process, sampler, objective=objective, noise=noise)
        return Steered(*(x.float().clamp(-1, 1) for x in (pair.off, pair.on[0])))

    @cached_property
    def studied(self) -> StudiedDictionary:
        """The dictionary beside its network, with the latents' numbers of training."""
        return StudiedDictionary(self.sae, self.card, self.source.net)

    @cached_property
    def source(self) -> LiveSource:
        """The backbone at work, as in training."""
        net = carded_backbone(self.card)
        return LiveSource(
            OnePicture(self.card.get("image_size") or net.image_size),
            net,
            self.card["timestep"],
            self.card["block"],
            Noise(**(self.card.get("noise") or {})),
            dtype="fp32",
            device=self.device,
            normalisation=carded_normalisation(self.card),
        )

    def _prepared(self, picture: PictureInput) -> Float[Tensor, "3 side side"]:
        """The picture's middle square at the size that was learned on, in [-1, 1]."""
        side = self.source.dataset.image_size
        if isinstance(picture, Tensor):
            if picture.shape != (3, side, side) or not bool((picture.abs() <= 1).all()):
                raise UserError(
                    f"A picture as a tensor is [3, {side}, {side}] in [-1, 1], got "
                    f"{list(picture.shape)} in [{picture.min():.3g}, {picture.max():.3g}]: scale "
                    f"it, or give a path or a PIL.Image"
                )
            return picture.float()
        if isinstance(picture, Image.Image):
            return fit_picture(np.asarray(picture.convert("RGB")), side, "center", "The picture")
        return open_picture(picture, side)

    def _stream(self, pool: LivePool, wanted: str | None) -> int:
        """Which of a picture's stacked streams; concatenated ones are one."""
        names = [stream.name for stream in pool.streams] if pool.stack else []
        if wanted not in names and (len(names) > 1 or wanted is not None):
            held = f"one of {', '.join(names)}" if names else "left out: there is one"
            raise UserError(f"stream= must be {held}, got {wanted!r}")
        return names.index(wanted) if wanted else 0
