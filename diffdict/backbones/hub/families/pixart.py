"""`PixArtTransformer2DModel`: DiT with cross-attention to T5's text (Chen et al. 2023, 2024)."""

import torch
from torch import Tensor

from diffdict.backbones.hub.families.family import Family, Setting, as_batch, rows
from diffdict.backbones.hub.prompt import Prompt


class CrossTransformer(Family):
    """PixArt-α and -Σ; α of 1024 px is also told size and shape of its picture."""

    of = "PixArtTransformer2DModel"
    cross, modulated, tokenizers = "attn2", "attn1", ("tokenizer",)

    @property
    def text(self) -> int | None:
        """T5's width."""
        return self.config.get("caption_channels") or self.config["cross_attention_dim"]

    @property
    def _told_sizes(self) -> bool:
        conditions = self.config.get("use_additional_conditions")
        return self.config.get("sample_size") == 128 if conditions is None else bool(conditions)

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """The text and which of its tokens are words; a square picture of its own size."""
        side, mask = setting.side, setting.prompt.mask
        sizes = {"resolution": None, "aspect_ratio": None}
        if self._told_sizes:
            pair = torch.tensor([[side, side]], dtype=x_t.dtype), torch.ones(1, 1, dtype=x_t.dtype)
            sizes = {key: rows(x, x_t) for key, x in zip(sizes, pair, strict=True)}
        return {
            "hidden_states": x_t,
            "encoder_hidden_states": rows(setting.prompt.states, x_t),
            "encoder_attention_mask": None if mask is None else rows(mask, x_t),
            "timestep": as_batch(t, x_t),
            "added_cond_kwargs": sizes,
        }

    def read_text(self, text: str) -> str:
        """As its pipeline hands it on."""
        return text.lower().strip()

    def encode(self, pipeline: object, text: str | None) -> Prompt:
        """By T5, which says what is padding."""
        states, mask, _, _ = pipeline.encode_prompt(
            text or "", do_classifier_free_guidance=False, device="cpu"
        )
        return Prompt(states, mask=mask)
