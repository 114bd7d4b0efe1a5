"""`Flux2Transformer2DModel`: FLUX.2 dev and klein, whose autoencoder packs 2 × 2 latents itself.

Black Forest Labs 2025. A place of the latents is a token, told its row and column.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffdict.backbones.hub.families.family import Family, Setting, rows, shares
from diffdict.backbones.hub.prompt import Prompt

# the shift's line through 10 and through 200 steps, each as slope and offset over the tokens
FEW, MANY = (8.73809524e-05, 1.89833333), (0.00016927, 0.45666666)
LARGE = 4300  # tokens, above which the line through 200 steps holds for all


class PatchTransformer(Family):
    """Told the states of a language model; dev, which was distilled, also a guidance."""

    of = "Flux2Transformer2DModel"
    cross, modulated = "attn", "attn"

    @property
    def native_size(self) -> int | None:
        """Any: places are said, not learned; 1024 px are usual."""
        return 64

    @property
    def text(self) -> int | None:
        """Three of the language model's layers, side by side."""
        return self.config["joint_attention_dim"]

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """Tokens and their places in four numbers: time, row, column, and the text's order."""
        states = rows(setting.prompt.states, x_t)
        guidance = None
        if self.config.get("guidance_embeds"):
            guidance = torch.full((len(x_t),), setting.guidance, device=x_t.device)
        row, column, order = (torch.arange(n) for n in (*x_t.shape[2:], states.shape[1]))
        none = torch.zeros(1, dtype=torch.int64)
        return {
            "hidden_states": x_t.flatten(2).mT,
            "encoder_hidden_states": states,
            "timestep": shares(t, x_t),
            "img_ids": torch.cartesian_prod(none, row, column, none).to(x_t.device),
            "txt_ids": torch.cartesian_prod(none, none, none, order).to(x_t.device),
            "guidance": guidance,
        }

    def prediction(self, output: Tensor, x_t: Tensor) -> Tensor:
        """Tokens back at their places."""
        return output.mT.unflatten(2, x_t.shape[2:])

    def attends(self, keys: int, places: int) -> tuple[slice, slice]:
        """Double and single streams: the text first, then the picture."""
        return slice(keys - places, None), slice(0, keys - places)

    def set_steps(self, scheduler: object, steps: int, shape: Sequence[int]) -> None:
        """Evenly from 1 down to 1 / steps, then shifted by tokens and steps."""
        mu = shift_of(self._tokens(shape), steps)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)

    def encode(self, pipeline: object, text: str | None) -> Prompt:
        """By the language model, which is told the text as one of a conversation."""
        return Prompt(pipeline.encode_prompt(text or "", device="cpu")[0])


def shift_of(tokens: int, steps: int) -> float:
    """Between the lines of 10 and of 200 steps, and beyond them."""
    few, many = (slope * tokens + offset for slope, offset in (FEW, MANY))
    return many if tokens > LARGE else many + (many - few) * (steps - 200) / 190
