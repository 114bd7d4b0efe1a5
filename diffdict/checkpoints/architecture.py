"""The flags that a network was built with, read off the names and shapes of its weights."""

from collections.abc import Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
Flag = bool | int | str | list
GUIDED_UNET = "guided-diffusion U-Net"
PDAE = "PDAE (encoder, frozen U-Net and shift half)"
PDAE_FACTS = "pdae"  # the entry of our runs' checkpoints in which such a network says what it is
CODE_ENCODER = "code encoder"  # others' encoders begin with a linear layer under its first name
TRAINABLE = ("label_emb.", "shift_")  # how keys of a decoder begin that belong to the shift half


class Architecture(NamedTuple):
    """What kind of network these weights are, and its flags by the names that our configs use."""

    kind: str | None
    flags: dict[str, Flag]


def infer_architecture(shapes: Shapes, image_size: int | None = None) -> Architecture:
    """The network behind these shapes; image_size lets attention be told in pixels."""
    for key, kind, read in (
        ("shift.shift_out.2.weight", PDAE, _pdae),
        ("shift_out.2.weight", "decoder of a PDAE without its encoder", _pdae_decoder),
        ("encoder.0.weight", CODE_ENCODER, _code_encoder),
        ("encoder.layer4.0.conv2.weight", "ResNet-10 code encoder", _resnet10),
        ("input_blocks.0.0.weight", GUIDED_UNET, _guided_unet),
        ("patch_embed.proj.weight", "MAE ViT", _mae),
        ("layer1.0.conv1.weight", "ResNet", _resnet),
        ("image_proj.weight", "DDAE U-Net", _ddae_unet),
        ("x_embedder.proj.weight", "DiT", _dit),
        ("group1.blocks.0.conv1.weight", "DDAE WideResNet", _wide_resnet),
        ("time_emb.lin1.weight", "DDAE noise-conditional MLP", _noisy_mlp),
        ("AuxLogits.fc.weight", "classifying Inception v3", _of_one_size),
        ("Mixed_7c.branch_pool.conv.weight", "FID Inception", _of_one_size),
    ):
        if key in shapes and (kind != CODE_ENCODER or len(shapes[key]) == 4):
            try:
                return Architecture(kind, read(shapes, image_size))
            except (
                KeyError,
                IndexError,
                StopIteration,
                ValueError,
                ZeroDivisionError,
            ):  # half a network: its kind is all we know
                return Architecture(kind, {})
    return Architecture(None, {})


def _guided_unet(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    width = shapes["time_embed.0.weight"][1]
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


def _dit(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    """All but the heads of its attention, which no shape tells."""
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    rows = shapes["y_embedder.embedding_table.weight"][0]
    return {
        "input_size": round(shapes["pos_embed"][1] ** 0.5) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": _count(shapes, "blocks."),
        "num_classes": rows - 1,  # the last row is the null class
        "learn_sigma": shapes["final_layer.linear.weight"][0] == 2 * patch**2 * channels,
    }


def _wide_resnet(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    first = shapes["init_conv.weight"][0]
    return {
        "blocks_per_group": _count(shapes, "group1.blocks."),
        "channel_multiplier": shapes["group1.blocks.0.conv1.weight"][0] // first,
        "num_classes": shapes["final_linear.weight"][0],
    }


def _noisy_mlp(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    return {"dim": shapes["cls.0.weight"][1], "classes": shapes["cls.2.weight"][0]}


def _of_one_size(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    return {}


def _pdae(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    """The U-Net's flags, the code's width, and the encoder's widths and side."""
    encoder = _below(shapes, "encoder.")
    read = _code_encoder if "encoder.0.weight" in encoder else _resnet10
    flags = read(encoder, image_size)
    size = flags.get("image_size", image_size)
    unet = _guided_unet(_below(shapes, "denoiser."), size if isinstance(size, int) else None)
    return {**flags, **unet, "code": shapes["shift.label_emb.weight"][1]}


def _pdae_decoder(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    """Of both halves under the original's names, whose label_emb is no table of classes."""
    frozen = {key: shape for key, shape in shapes.items() if not key.startswith(TRAINABLE)}
    return {**_guided_unet(frozen, image_size), "code": shapes["label_emb.weight"][1]}


def _code_encoder(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    """A convolution a halving, down to 4 × 4."""
    convolutions = {
        int(key.split(".")[1]): shape for key, shape in shapes.items() if len(shape) == 4
    }
    widths = [convolutions[place][0] for place in sorted(convolutions)]
    code = next(shape[0] for shape in shapes.values() if len(shape) == 2)
    return {"image_size": 4 * 2 ** len(widths), "code": code, "widths": widths}


def _resnet10(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    return {"code": shapes["encoder.layer4.0.conv2.weight"][0]}


def _below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The part of a network under this prefix."""
    return {k.removeprefix(prefix): shape for k, shape in shapes.items() if k.startswith(prefix)}


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered children stand under this prefix."""
    return len({key[len(prefix) :].partition(".")[0] for key in shapes if key.startswith(prefix)})


def _ddae_unet(shapes: Shapes, image_size: int | None) -> dict[str, Flag]:
    """All but the heads of its attention, which no shape tells, and what is no architecture."""
    width = shapes["image_proj.weight"][0]
    number = _count(shapes, "down.")
    blocks = [i for i in range(number) if f"down.{i}.res.conv1.weight" in shapes]
    per_level = next((i for i in range(number) if i not in blocks), number)
    firsts = blocks[::per_level]  # one block of each level
    widths = [shapes[f"down.{i}.res.conv1.weight"][0] for i in firsts]
    flags: dict[str, Flag] = {
        "n_channels": width,
        "ch_mults": [w // width if w % width == 0 else w / width for w in widths],
        "is_attn": [f"down.{i}.attn.norm.weight" in shapes for i in firsts],
        "n_blocks": per_level,
        "augment_dim": shapes.get("time_emb.aug_emb.weight", (0, 0))[1],
    }
    if len(widths) > 1:
        flags["use_res_for_updown"] = any(".op." in key for key in shapes)
    return flags
