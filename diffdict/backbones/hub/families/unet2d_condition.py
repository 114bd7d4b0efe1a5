"""`UNet2DConditionModel`: U-Nets of latents and text: Stable Diffusion 1.x, 2.x and SDXL.

Rombach et al. 2022; SDXL (Podell et al. 2023) is also told one vector of the text, and the size
and crop of its picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffdict.backbones.hub.families.family import Family, Setting, as_batch, halvings, rows
from diffdict.backbones.hub.prompt import Prompt
from diffdict.errors import UserError

SIZES = 6  # original height and width, top and left of the crop, target height and width


class TextUnet(Family):
    """SDXL where the config says addition_embed_type=text_time, else Stable Diffusion."""

    of = "UNet2DConditionModel"
    component, cross, tokenizers = "unet", "attn2", ("tokenizer",)

    @property
    def divisor(self) -> int:
        """All halvings."""
        return halvings(self.config)

    @property
    def text(self) -> int | None:
        """The width that its cross-attention reads."""
        return _one(self.config["cross_attention_dim"])

    @property
    def pooled(self) -> int | None:
        """What is left of SDXL's added embedding beside the six sizes."""
        if not self._told_sizes:
            return None
        width = self.config["projection_class_embeddings_input_dim"]
        return width - SIZES * self.config["addition_time_embed_dim"]

    @property
    def _told_sizes(self) -> bool:
        return self.config.get("addition_embed_type") == "text_time"

    def refusal(self) -> str | None:
        """Inpainting's masks, depth maps, classes, and embeddings other than SD's and SDXL's."""
        config, out = self.config, self.config.get("out_channels")
        if config["in_channels"] != out:
            return (
                f"a U-Net of {config['in_channels']} channels that predicts {out}: of inpainting, "
                "depth or upscaling; pictures' latents are all that backbone=hub gives"
            )
        if config.get("class_embed_type") or config.get("num_class_embeds"):
            return "a class-conditional U-Net; there are no classes to give it"
        if config.get("addition_embed_type") not in (None, "text_time"):
            return f"told {config['addition_embed_type']}, which is neither SD's nor SDXL's"
        if config.get("encoder_hid_dim_type") is not None:
            return f"told {config['encoder_hid_dim_type']}, which is neither SD's nor SDXL's"
        return None

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """The text, and to SDXL its vector and the sizes: a whole picture, nothing cut off."""
        arguments = {
            "sample": x_t,
            "timestep": t,
            "encoder_hidden_states": rows(setting.prompt.states, x_t),
        }
        if self._told_sizes:
            side = setting.side
            sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=x_t.dtype)
            arguments["added_cond_kwargs"] = {
                "text_embeds": rows(setting.prompt.pooled, x_t),
                "time_ids": rows(sizes, x_t),
            }
            arguments["timestep"] = as_batch(t, x_t)
        return arguments

    def encode(self, pipeline: object, text: str | None) -> Prompt:
        """By one CLIP, or by SDXL's two: all states side by side, the second one's vector."""
        plain = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        if not self._told_sizes:
            return Prompt(pipeline.encode_prompt(text or "", **plain)[0])
        states, _, pooled, _ = pipeline.encode_prompt(text or "", **plain)
        if text is None and pipeline.config.force_zeros_for_empty_prompt:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        return Prompt(states, pooled)

    def grid(self, tokens: int, size: Sequence[int]) -> tuple[int, int]:
        """That of the level with so many places."""
        height, width = size
        while height * width > tokens:
            height, width = height // 2, width // 2
        if height * width != tokens:
            raise UserError(f"{tokens} tokens are no level of latents of {size[0]}×{size[1]}")
        return height, width


def _one(width: int | list[int]) -> int:
    """A width a level, or one for all; text has one."""
    return width if isinstance(width, int) else width[0]
