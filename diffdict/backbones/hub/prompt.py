"""What a network is told of a text: its embeddings, from a file or from a pipeline's encoders."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffdict.errors import UserError

# the words that diffusers' pipelines have for them, and those of a prompt to be guided away from
FIELDS = {
    "states": "prompt_embeds",
    "pooled": "pooled_prompt_embeds",
    "mask": "prompt_attention_mask",
}
ALSO = {"prompt_embeds_mask": "prompt_attention_mask"}  # Qwen-Image's word for it
NEGATIVE = "negative_"


class Prompt(NamedTuple):
    """A text as its encoders left it, a row a text."""

    states: Tensor  # [texts, tokens, width]
    pooled: Tensor | None = None  # [texts, width]: one vector a text
    mask: Tensor | None = None  # [texts, tokens]: 1 for tokens of the text, 0 for its padding

    @property
    def sha256(self) -> str:
        """Of its numbers."""
        digest = hashlib.sha256()
        for name, x in self._asdict().items():
            if x is not None:
                digest.update(f"{name} {tuple(x.shape)}\n".encode())
                digest.update(x.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Prompt":
        """The same on another device."""
        return Prompt(*(None if x is None else x.to(device) for x in self))


def read_embeddings(path: Path, negative: bool = False) -> Prompt:
    """The embeddings that an .npz holds under diffusers' names, one text; never a pickle."""
    names = {key: NEGATIVE * negative + name for key, name in FIELDS.items()}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {_usual(name): name for name in file}
            tensors = {
                key: torch.from_numpy(file[arrays[name]])
                for key, name in names.items()
                if name in arrays
            }
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"backbone.prompt={path} is no .npz of arrays: np.savez(…, prompt_embeds=…) writes one"
        ) from error
    if "states" not in tensors:
        raise UserError(
            f"{path} holds no {names['states']}: name its arrays as diffusers' pipelines name "
            "theirs"
        )
    prompt = Prompt(**tensors)
    states = prompt.states[None] if prompt.states.ndim == 2 else prompt.states
    pooled, mask = prompt.pooled, prompt.mask
    pooled = pooled[None] if pooled is not None and pooled.ndim == 1 else pooled
    mask = mask[None] if mask is not None and mask.ndim == 1 else mask
    for name, x in (("prompt_embeds", states), ("pooled_prompt_embeds", pooled)):
        if x is not None and len(x) != 1:
            raise UserError(
                f"{path} holds {len(x)} texts in {name}; backbone.prompt is one, told of every "
                "picture: keep one row"
            )
    return Prompt(states.float(), None if pooled is None else pooled.float(), mask)


def _usual(name: str) -> str:
    """An array's name in the words of `FIELDS`."""
    plain = name.removeprefix(NEGATIVE)
    return name.replace(plain, ALSO.get(plain, plain))


def check_prompt(prompt: Prompt, text: int, pooled: int | None, source: str) -> None:
    """Embeddings as wide as the network reads them."""
    for name, x, wanted in (
        ("prompt_embeds", prompt.states, text),
        ("pooled_prompt_embeds", prompt.pooled, pooled),
    ):
        if wanted is not None and (x is None or x.shape[-1] != wanted):
            width = "none" if x is None else f"{x.shape[-1]}"
            raise UserError(
                f"The network reads {name} of width {wanted}, {source} has {width}: take the "
                "embeddings of its own pipeline's encoders"
            )


def as_arrays(prompt: Prompt) -> Mapping[str, Tensor]:
    """What there is of it, for a file."""
    return {key: x.contiguous() for key, x in prompt._asdict().items() if x is not None}
