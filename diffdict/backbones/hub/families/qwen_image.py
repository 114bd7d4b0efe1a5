"""`QwenImageTransformer2DModel`: Qwen-Image, streams of text and picture over packed latents.

Wu et al. 2025.
"""

import torch
from torch import Tensor

from diffdict.backbones.hub.families.family import Setting, rows, shares
from diffdict.backbones.hub.families.flux import PATCH, PackedTransformer, packed
from diffdict.backbones.hub.prompt import Prompt


class FrameTransformer(PackedTransformer):
    """Told the states of a language model that sees, and which of them are padding."""

    of = "QwenImageTransformer2DModel"
    tokenizers = ()

    @property
    def pooled(self) -> int | None:
        """It takes no vector."""
        return None

    def refusal(self) -> str | None:
        """Networks of several pictures or layers."""
        for key in ("use_additional_t_cond", "use_layer3d_rope"):
            if self.config.get(key):
                return f"a network of layered pictures ({key})"
        return None

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """Tokens, and the picture's rows and columns as a film of one frame."""
        height, width = (side // PATCH for side in x_t.shape[2:])
        mask, guidance = setting.prompt.mask, None
        if self.config.get("guidance_embeds"):
            guidance = torch.full((len(x_t),), setting.guidance, device=x_t.device)
        return {
            "hidden_states": packed(x_t),
            "encoder_hidden_states": rows(setting.prompt.states, x_t),
            "encoder_hidden_states_mask": None if mask is None else rows(mask, x_t),
            "timestep": shares(t, x_t),
            "img_shapes": [[(1, height, width)]] * len(x_t),
            "guidance": guidance,
        }

    def guided(self, own: Tensor, away: Tensor, weight: float) -> Tensor:
        """Led away, each token as long as the prompt's own."""
        pushed = packed(super().guided(own, away, weight))
        length = packed(own).norm(dim=-1, keepdim=True) / pushed.norm(dim=-1, keepdim=True)
        return self.prediction(pushed * length, own)

    def encode(self, pipeline: object, text: str | None) -> Prompt:
        """By the language model, without the words around the text."""
        states, mask = pipeline.encode_prompt(text or "", device="cpu")
        return Prompt(states, mask=mask)
