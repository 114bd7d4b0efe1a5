"""`UNet2DModel`: U-Nets of pixels that are told nothing (Ho et al. 2020)."""

from collections.abc import Mapping

from torch import Tensor, nn

from diffdict.backbones.base import Block
from diffdict.backbones.hub.families.family import Family, Setting, halvings

# of attention layers: names until diffusers 0.17, and since then
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class PixelUnet(Family):
    """Blocks are numbers, 0 the deepest: the residual blocks of the way up, as in guided-diffusion.

    A block's map is what it hands on: after its attention and, at a level's end, enlarged.
    """

    of = "UNet2DModel"
    component, latent = "unet", False

    @property
    def divisor(self) -> int:
        """All halvings."""
        return halvings(self.config)

    def refusal(self) -> str | None:
        """Other channels, classes, and levels in place of timesteps."""
        config = self.config
        if config.get("in_channels") != 3:
            return f"a U-Net of {config.get('in_channels')} channels; pictures have 3"
        if config.get("class_embed_type") or config.get("num_class_embeds"):
            return "a class-conditional U-Net; there are no classes to give it"
        if config.get("time_embedding_type", "positional") != "positional":
            return "a score network, told noise levels; backbone=hub tells timesteps"
        return None

    def blocks(self, network: nn.Module) -> dict[Block, nn.Module]:
        """The layer that hands on each map: upsampler, attention or residual block."""
        ends = []
        for level in network.up_blocks:
            attentions = getattr(level, "attentions", None) or []
            last = [
                attentions[i] if i < len(attentions) else x for i, x in enumerate(level.resnets)
            ]
            if getattr(level, "upsamplers", None):
                last[-1] = level.upsamplers[-1]
            ends += last
        return dict(enumerate(ends))

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """Nothing but x_t and t."""
        return {"sample": x_t, "timestep": t}


def renamed_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under today's names."""
    now = {}
    for key, value in state.items():
        *above, layer, kind = key.split(".")
        attends = "attentions" in above
        now[".".join([*above, RENAMED.get(layer, layer) if attends else layer, kind])] = value
    return now
