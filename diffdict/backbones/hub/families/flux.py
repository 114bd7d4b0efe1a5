"""`FluxTransformer2DModel`: FLUX.1, double streams and then single ones over packed latents.

Black Forest Labs 2024. Two by two latents are one token, told its row and column.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffdict.backbones.hub.families.family import Family, Setting, rows, shares, shift_for
from diffdict.backbones.hub.prompt import Prompt

PATCH = 2  # the side of what the pipeline packs into a token, whatever patch_size says


class PackedTransformer(Family):
    """Told T5's states and CLIP's vector; dev, which was distilled, also a guidance."""

    of = "FluxTransformer2DModel"
    cross, modulated, tokenizers = "attn", "attn", ("tokenizer_2",)

    @property
    def channels(self) -> int:
        """Of the latents, four of which are a token's."""
        return self.config["in_channels"] // PATCH**2

    @property
    def divisor(self) -> int:
        """The side of a token."""
        return PATCH

    @property
    def native_size(self) -> int | None:
        """Any: places are said, not learned; 1024 px are usual."""
        return 128

    @property
    def text(self) -> int | None:
        """T5's width."""
        return self.config["joint_attention_dim"]

    @property
    def pooled(self) -> int | None:
        """CLIP's width."""
        return self.config["pooled_projection_dim"]

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """Tokens and their places, the text at place 0."""
        states = rows(setting.prompt.states, x_t)
        guidance = None
        if self.config.get("guidance_embeds"):
            guidance = torch.full((len(x_t),), setting.guidance, device=x_t.device)
        return {
            "hidden_states": packed(x_t),
            "encoder_hidden_states": states,
            "pooled_projections": rows(setting.prompt.pooled, x_t),
            "timestep": shares(t, x_t),
            "img_ids": token_places(x_t),
            "txt_ids": torch.zeros(states.shape[1], 3, dtype=x_t.dtype, device=x_t.device),
            "guidance": guidance,
        }

    def prediction(self, output: Tensor, x_t: Tensor) -> Tensor:
        """Tokens back in the latents' layout."""
        height, width = (side // PATCH for side in x_t.shape[2:])
        return F.fold(output.mT, x_t.shape[2:], PATCH, stride=PATCH).view(
            len(x_t), -1, height * PATCH, width * PATCH
        )

    def set_steps(self, scheduler: object, steps: int, shape: Sequence[int]) -> None:
        """Evenly from 1 down to 1 / steps, then shifted."""
        mu = shift_for(scheduler.config, self._tokens(shape))
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)

    def attends(self, keys: int, places: int) -> tuple[slice, slice]:
        """Double and single streams: the text first, then the picture."""
        return slice(keys - places, None), slice(0, keys - places)

    def encode(self, pipeline: object, text: str | None) -> Prompt:
        """By T5, and CLIP's vector."""
        states, pooled, _ = pipeline.encode_prompt(text or "", None, device="cpu")
        return Prompt(states, pooled)


def packed(x: Tensor) -> Tensor:
    """[batch, channels, height, width] as tokens, row by row, each channel's 2 × 2 together."""
    return F.unfold(x, PATCH, stride=PATCH).mT


def token_places(x: Tensor) -> Tensor:
    """0, row and column of every token."""
    height, width = (side // PATCH for side in x.shape[2:])
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ids = torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1)
    return ids.to(x.device, x.dtype)
