"""The families that backbone=hub knows, by the class that a folder's config.json names."""

from collections.abc import Mapping
from pathlib import Path

from diffdict.backbones.hub.families.dit import ClassTransformer
from diffdict.backbones.hub.families.family import Family
from diffdict.backbones.hub.families.flux import PackedTransformer
from diffdict.backbones.hub.families.flux2 import PatchTransformer
from diffdict.backbones.hub.families.pixart import CrossTransformer
from diffdict.backbones.hub.families.qwen_image import FrameTransformer
from diffdict.backbones.hub.families.sd3 import JointTransformer
from diffdict.backbones.hub.families.unet2d import PixelUnet
from diffdict.backbones.hub.families.unet2d_condition import TextUnet
from diffdict.errors import UserError

FAMILIES: Mapping[str, type[Family]] = {
    "UNet2DModel": PixelUnet,
    "UNet2DConditionModel": TextUnet,
    "DiTTransformer2DModel": ClassTransformer,
    "PixArtTransformer2DModel": CrossTransformer,
    "SD3Transformer2DModel": JointTransformer,
    "FluxTransformer2DModel": PackedTransformer,
    "Flux2Transformer2DModel": PatchTransformer,
    "QwenImageTransformer2DModel": FrameTransformer,
}


def family_of(config: Mapping, folder: Path) -> Family:
    """The family of a config, where it can look at pictures."""
    kind = config.get("_class_name")
    if kind not in FAMILIES:
        raise UserError(
            f"{folder} is a {kind}; backbone=hub takes {', '.join(FAMILIES)}: choose another folder"
        )
    family = FAMILIES[kind](config)
    if (why := family.refusal()) is not None:
        raise UserError(f"{folder} is {why}: choose another folder or dataset.image_size")
    return family
