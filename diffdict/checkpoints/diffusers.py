"""Weights in the folders that diffusers saves: a network's own, or a pipeline's with its parts."""

import json
from pathlib import Path

from diffdict.errors import UserError

STEM = "diffusion_pytorch_model"


def unet_weights(folder: Path) -> Path | None:
    """The one safetensors file of the folder's U-Net; None where diffusers saved nothing."""
    network = folder / "unet" if (folder / "unet").is_dir() else folder
    whole = network / f"{STEM}.safetensors"
    if whole.is_file():
        return whole
    others = sorted(network.glob(f"{STEM}*"))
    variants = [path for path in others if path.suffix == ".safetensors"]
    if len(variants) == 1 and "-of-" not in variants[0].name:
        return variants[0]
    if not others:
        return None
    names = ", ".join(path.name for path in others[:4])
    load = "its variant=…" if variants else "use_safetensors=False, if you trust its pickle"
    raise UserError(
        f"{network} holds {names}, no {whole.name}: save it so where diffusers is, with "
        f"UNet2DModel.from_pretrained(…).save_pretrained(…, max_shard_size='100GB') and {load}"
    )


def sees_pixels(folder: Path) -> bool:
    """Whether the folder's U-Net looks at pictures as they are, through no autoencoder."""
    network = folder / "unet" if (folder / "unet").is_dir() else folder
    try:
        config = json.loads((network / "config.json").read_text())
    except (OSError, ValueError):  # whoever reads it says so
        return True
    return config.get("_class_name") in (None, "UNet2DModel")
