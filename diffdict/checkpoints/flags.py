"""The flags that a network was built with, read off the names and shapes of its weights."""

from collections.abc import Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
Flag = bool | int | str


class Anatomy(NamedTuple):
    """What kind of network these weights are, and its flags by the names that our configs use."""

    kind: str | None
    flags: dict[str, Flag]


def anatomy(shapes: Shapes, image_size: int | None = None) -> Anatomy:
    """The network behind these shapes; image_size lets attention be told in pixels."""
    for key, kind, read in (
        ("input_blocks.0.0.weight", "guided-diffusion U-Net", _guided_unet),
        ("patch_embed.proj.weight", "MAE ViT", _mae),
        ("layer1.0.conv1.weight", "ResNet", _resnet),
        ("image_proj.weight", "DDAE U-Net", _no_flags),
    ):
        if key in shapes:
            try:
                return Anatomy(kind, read(shapes, image_size))
            except (
                KeyError,
                IndexError,
                ZeroDivisionError,
            ):  # half a network: its kind is all we know
                return Anatomy(kind, {})
    return Anatomy(None, {})


def _no_flags(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    return {}


def _guided_unet(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    width = shapes["input_blocks.0.0.weight"][0]
    count = _count(shapes, "output_blocks.")
    risers = [i for i in range(count) if _rises(shapes, i)]  # the last block of each level but one
    blocks = risers[0] if risers else count - 1  # a level has num_res_blocks + 1 of them
    levels = [count - 1 - level * (blocks + 1) for level in range(len(risers) + 1)]
    widths = [shapes[f"output_blocks.{i}.0.in_layers.2.weight"][0] for i in levels]
    first = "input_blocks.1.0"
    doubled = shapes[f"{first}.emb_layers.1.weight"][0]
    flags: dict[str, Flag] = {
        "num_channels": width,
        "num_res_blocks": blocks,
        "channel_mult": ",".join(f"{w / width:g}" for w in widths),
        **_attention(shapes, levels, image_size),
        "use_scale_shift_norm": doubled == 2 * shapes[f"{first}.in_layers.2.weight"][0],
        "learn_sigma": shapes["out.2.weight"][0] == 6,
        "class_cond": "label_emb.weight" in shapes,
    }
    if risers:
        flags["resblock_updown"] = not any(
            key.endswith((".op.weight", ".conv.weight")) for key in shapes
        )
    if "ssl_emb.weight" in shapes:
        flags["ssl_dim"] = shapes["ssl_emb.weight"][1]
    return flags


def _attention(shapes: Shapes, levels: list[int], image_size: int | None) -> dict[str, Flag]:
    """Attention as resolutions in pixels when the picture's size is known, else as factors."""
    factors = [2**k for k, i in enumerate(levels) if f"output_blocks.{i}.1.qkv.weight" in shapes]
    if image_size is None:
        return {"attention at downsampling": ",".join(map(str, factors))}
    return {"attention_resolutions": ",".join(str(image_size // f) for f in factors)}


def _rises(shapes: Shapes, block: int) -> bool:
    return any(
        f"output_blocks.{block}.{j}.{end}" in shapes
        for j in (1, 2)
        for end in ("conv.weight", "in_layers.0.weight")
    )


def _mae(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    side = round((shapes["pos_embed"][1] - 1) ** 0.5)
    return {
        "embed_dim": width,
        "depth": _count(shapes, "blocks."),
        "patch_size": patch,
        "img_size": side * patch,
    }


def _resnet(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    width = f"{shapes['conv1.weight'][0] / 64:g}"
    return {"width": width, "blocks in layer3": _count(shapes, "layer3.")}


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered children stand under this prefix."""
    return len({key[len(prefix) :].partition(".")[0] for key in shapes if key.startswith(prefix)})
