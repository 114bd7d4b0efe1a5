"""A dictionary's codes, pooled over the picture: all latents, one, or some."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import combined_sha256, weights_sha256
from diffdict.backbones.carded import carded_backbone
from diffdict.errors import UserError
from diffdict.features.passes import Passes
from diffdict.representations.base import Representation
from diffdict.representations.pooled import shared_noise
from diffdict.sae.card import check_tokens, read_dictionary

NAMED = 8  # so many latents stand in a name


class PooledCodes(Representation):
    """The mean code of a picture's tokens; the dictionary brings backbone, timestep and block."""

    def __init__(
        self,
        dictionary: str | Path | None,
        latents: Sequence[int] | None = None,
        *,
        dictionary_name: str | None = None,
        name: str | None = None,
    ) -> None:
        """`dictionary`: a run of task=sae or its export; `dictionary_name`: one of several."""
        super().__init__()
        if dictionary is None:
            raise UserError(
                "representation=codes needs a dictionary: representation.dictionary=outputs/…, "
                "the folder of a run of task=sae, or its export"
            )
        self.sae, self.card = read_dictionary(dictionary, dictionary_name)
        check_tokens(self.card, {}, f"The dictionary {dictionary}")
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

    @torch.no_grad()
    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The vector of every picture in [-1, 1]."""
        self.check_pictures(images)
        maps = self.passes.maps(images, range(len(images)))
        tokens = torch.cat([maps[key].float().flatten(2) for key in self.passes.keys], dim=1).mT
        latents = torch.tensor(self.latents, device=images.device)
        means = [self.sae.encode_sparse(each).dense(self.sae.latents).mean(0) for each in tokens]
        return torch.stack(means)[:, latents]


def _checked(latents: Sequence[int] | None, there: int, dictionary: str | Path) -> list[int]:
    """Numbers of latents that the dictionary has, each once."""
    chosen = list(range(there)) if latents is None else [int(latent) for latent in latents]
    wrong = [latent for latent in chosen if not 0 <= latent < there]
    if wrong or not chosen or len(set(chosen)) != len(chosen):
        raise UserError(
            f"latents are numbers from 0 to {there - 1} of {dictionary}, each once, got "
            f"{list(latents or [])}: null takes all"
        )
    return chosen


def _name(latents: Sequence[int] | None) -> str:
    """What is stored of it, by a name of its own for few latents."""
    if latents is None:
        return "codes"
    named = "_".join(map(str, latents[:NAMED]))
    return f"codes_{named}" + (f"_and_{len(latents) - NAMED}" if len(latents) > NAMED else "")
