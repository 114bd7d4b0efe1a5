"""A dictionary's codes, pooled over the picture: all latents, one, or some."""

from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import combined_sha256, weights_sha256
from diffdict.backbones.carded import carded_backbone
from diffdict.errors import UserError
from diffdict.features.passes import Passes
from diffdict.representations.base import Representation
from diffdict.representations.pooled import next_noise, shared_noise
from diffdict.results.inputs.class_latents import ClassLatents
from diffdict.sae.card import check_tokens, in_training_order, read_dictionary

NAMED = 8  # so many latents stand in a name
BY_CLASS = "by_class"  # the latents that the dictionary's test found for classes


class PooledCodes(Representation):
    """The mean code of a picture's tokens; the dictionary brings backbone, timestep and block."""

    def __init__(
        self,
        dictionary: str | Path | None,
        latents: Sequence[int] | str | None = None,
        *,
        dictionary_name: str | None = None,
        name: str | None = None,
    ) -> None:
        """`dictionary`: a run of task=sae or its export; `dictionary_name`: one of several.

        `latents`: numbers of training, as tables have them; by_class, the first of every class;
        None, all.
        """
        super().__init__()
        if dictionary is None:
            raise UserError(
                "representation=codes needs a dictionary: representation.dictionary=outputs/…, "
                "the folder of a run of task=sae, or its export"
            )
        sae, self.card = read_dictionary(dictionary, dictionary_name)
        check_tokens(self.card, {}, f"The dictionary {dictionary}")
        self.sae = in_training_order(sae, self.card)
        if latents == BY_CLASS:
            latents = sorted(ClassLatents(dictionary, dictionary_name).by_class())
        self.latents = _checked(latents, self.sae.latents, dictionary)
        self.net = carded_backbone(self.card)
        noise = shared_noise(self.card.get("noise"))
        self.passes = Passes(self.net, self.card["timestep"], self.card["block"], noise)
        if len(self.passes.keys) > 1 and self.card.get("mix", "concat") == "stack":
            raise UserError(
                f"{dictionary} was learned on several streams stacked (data.mix=stack), and a "
                "picture has one vector: take one of a single stream, or data.mix=concat"
            )
        width = sum(self.net.shapes[block][0] for _, block in self.passes.keys)
        if width != self.sae.d_in:
            raise UserError(
                f"{dictionary} takes tokens {self.sae.d_in} wide, its card's blocks give {width}: "
                "card and weights are not of one export"
            )
        self.image_size = self.card.get("image_size") or self.net.image_size
        self.name = name or _name(latents)
        self.freeze(len(self.latents))

    @property
    def sha256(self) -> str:
        """Of the network, the dictionary, and which latents."""
        facts = self.passes.keys, self.passes.noise.facts(), self.latents, self.image_size
        return combined_sha256(self.net.sha256, weights_sha256(self.sae), repr(facts))

    def other_noise(self) -> Representation | None:
        """The same dictionary, its network's noise that of the next seed."""
        other, passes = copy(self), next_noise(self.passes)
        other.passes = passes
        return None if passes is None else other

    @torch.no_grad()
    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The vector of every picture in [-1, 1]."""
        return torch.stack([codes.mean((1, 2)) for codes in self._codes(images)])

    @torch.no_grad()
    def maps(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """Where in every picture its latents are active."""
        return torch.stack(list(self._codes(images)))

    def _codes(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Iterator[Float[Tensor, "dim rows columns"]]:
        """One picture's after the other: never all at once."""
        self.check_pictures(images)
        maps = self.passes.maps(images, range(len(images)))
        stack = torch.cat([maps[key].float() for key in self.passes.keys], dim=1)
        latents = torch.tensor(self.latents, device=images.device)
        for each in stack:
            codes = self.sae.encode_sparse(each.flatten(1).mT).dense(self.sae.latents)
            yield codes.T[latents].unflatten(1, each.shape[1:])


def _checked(latents: Sequence[int] | str | None, there: int, dictionary: str | Path) -> list[int]:
    """Numbers of latents that the dictionary has, each once."""
    chosen = list(range(there)) if latents is None else list(latents)
    wrong = [latent for latent in chosen if type(latent) is not int or not 0 <= latent < there]
    if wrong or not chosen or len(set(chosen)) != len(chosen):
        raise UserError(
            f"latents are numbers from 0 to {there - 1} of {dictionary}, each once, got "
            f"{latents}: null takes all, by_class the first of every class"
        )
    return chosen


def _name(latents: Sequence[int] | None) -> str:
    """What is stored of it, by a name of its own for few latents."""
    if latents is None:
        return "codes"
    numbers = "_".join(map(str, latents[:NAMED]))
    return f"codes_{numbers}" + (f"_and_{len(latents) - NAMED}" if len(latents) > NAMED else "")
