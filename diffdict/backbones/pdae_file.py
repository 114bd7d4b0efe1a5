"""A PDAE from its file: flags read off the shapes, and heads from settings or a config.yml."""

from collections.abc import Mapping
from pathlib import Path

from diffdict import checkpoints
from diffdict.backbones.autoencoders.code_backbone import CodeBackbone, Parts
from diffdict.backbones.autoencoders.published_flags import USUAL, published_flags
from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pdae import Pdae
from diffdict.backbones.resnet10 import ResNet10
from diffdict.diffusion.segments import CodeSegments
from diffdict.errors import UserError


def open_pdae(
    image_size: int,
    checkpoint: str | None,
    *,
    num_heads: int | None = None,
    num_head_channels: int | None = None,
    use_new_attention_order: bool | None = None,
    dropout: int | float | None = None,
    flags: str | None = None,
    predict: str | None = None,
    segments: Parts = None,
    shift: str | None = None,
    name: str = "pdae",
) -> Pdae:
    """A network of ours says all of these itself; of others null is what is usual (`USUAL`).

    `flags` is the config.yml beside a published network; it takes the place of the settings.
    """
    if checkpoint is None:
        raise UserError(
            "A PDAE without weights has no gap to fill: give backbone.checkpoint=FILE, of PDAE, "
            "DiTi or yours"
        )
    weights = checkpoints.load_state_dict(checkpoint)
    settings = {
        "num_heads": num_heads,
        "num_head_channels": num_head_channels,
        "use_new_attention_order": use_new_attention_order,
        "dropout": dropout,
        "predict": predict,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    encoder, architecture = shaped_encoder(weights, image_size)
    ours = weights.facts.get(checkpoints.PDAE_FACTS)
    if ours is None:
        settings |= {} if flags is None else published_flags(flags, architecture, image_size)
        denoiser = GuidedUNet(**architecture, **USUAL | settings)
        shift = shift or "gradient"
    else:
        check_no_flags(weights.path, flags)
        denoiser = GuidedUNet(**kept(weights.path, ours["denoiser"], settings))
        shift = kept(weights.path, ours, {} if shift is None else {"shift": shift})["shift"]
        segments = kept_segments(weights.path, ours["segments"], segments)
    code = encoder.shapes["code"][0]
    keys = {"segments": segments, "shift": shift, "name": name, "checkpoint": checkpoint}
    return Pdae(denoiser, encoder, code, **keys)


def shaped_encoder(
    weights: checkpoints.Weights, image_size: int
) -> tuple[CodeBackbone, dict[str, object]]:
    """The encoder, and those flags of the U-Net that the shapes tell."""
    shapes = {key: tuple(value.shape) for key, value in weights.state.items()}
    kind, architecture = checkpoints.infer_architecture(shapes, image_size)
    if kind != checkpoints.PDAE or "code" not in architecture:
        raise UserError(
            f"{weights.path} holds {f'a {kind}' if kind else 'a network of unknown kind'}, not "
            "PDAE's encoder and decoder: choose the backbone that the file was made for"
        )
    architecture = {"image_size": image_size, **architecture}
    code, widths = architecture.pop("code"), architecture.pop("widths", None)
    if (size := architecture["image_size"]) != image_size:
        raise UserError(
            f"{weights.path} is of {size}×{size} pictures, got image_size={image_size}: say "
            f"dataset.image_size={size}"
        )
    return ResNet10(size) if widths is None else CodeEncoder(size, code, widths), architecture


def kept(path: Path, facts: Mapping, typed: Mapping) -> Mapping:
    """What a checkpoint of ours says of its network, unless something else was typed."""
    for key, value in typed.items():
        if facts.get(key) != value:
            raise UserError(
                f"{path} was learned with {key}={facts.get(key)}, got {value}: leave "
                f"backbone.{key} out, the file says it"
            )
    return facts


def kept_segments(path: Path, theirs: Mapping | None, asked: Parts) -> Parts:
    """The parts that a checkpoint was learned with; one without any may be cut for its features."""
    if theirs is None or asked is None:
        return asked if theirs is None else dict(theirs)
    parts = asked if isinstance(asked, CodeSegments) else CodeSegments(**theirs | dict(asked))
    if parts != CodeSegments(**theirs):
        raise UserError(
            f"{path} was learned with other segments, number={theirs['number']} "
            f"stages={theirs['stages']} dims={theirs['dims']}: leave backbone.segments out"
        )
    return parts


def check_no_flags(path: Path, flags: str | None) -> None:
    """A checkpoint of ours needs no settings beside it."""
    if flags is not None:
        raise UserError(
            f"{path} is a run of task=pdae and says its flags itself, got flags={flags}: leave "
            "backbone.flags out"
        )
