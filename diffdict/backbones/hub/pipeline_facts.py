"""What a folder of diffusers holds, before a weight is read: sizes, blocks, noise of timesteps."""

import math
from pathlib import Path

import torch

from diffdict.backbones.autoencoders.latent_layouts import LAYOUTS
from diffdict.backbones.hub.families.family import Family
from diffdict.backbones.hub.families.registry import family_of
from diffdict.backbones.hub.memory import pass_bytes
from diffdict.backbones.hub.pipeline_folder import (
    network_folder,
    pipeline_folder,
    read_config,
    scheduler_config,
)
from diffdict.backbones.hub.scheduler import PREDICTS, process_of
from diffdict.diffusion.process import Process
from diffdict.files import human_bytes

TOKENS = 77  # of a text, in the pass whose memory is said
SHOWN = (1, 50, 100, 150, 250, 400, 500, 600, 750, 900, 999)  # of 1000 timesteps


def is_pipeline(path: Path) -> bool:
    """Whether diffusers saved a network there."""
    config = network_folder(path) / "config.json"
    return config.is_file() and "_diffusers_version" in config.read_text()


def describe_pipeline(path: Path) -> str:
    """In one screen: the network, what it reads, its blocks, and the noise of its timesteps."""
    folder = network_folder(path)
    family = family_of(read_config(folder / "config.json"), folder)
    with torch.device("meta"):
        network = family.made()
    sizes = [parameter.numel() for parameter in network.parameters()]
    outer = [str(block) for block in family.blocks(network) if family.outer(block)]
    outer.sort(key=lambda block: block.startswith("up_blocks"))  # the way down and the middle first
    single, half = (human_bytes(sum(sizes) * width) for width in (4, 2))
    lines = [
        f"{path}: {family.kind}, {sum(sizes):,} parameters: {single} in fp32, {half} in bf16",
        f"reads {_read(family, folder)}",
        f"blocks {', '.join(outer)}",
    ]
    if (memory := pass_bytes(family, TOKENS)) is not None:
        single, half = (human_bytes(memory * width // 4) for width in (4, 2))
        text = "" if family.text is None else f" with {TOKENS} tokens of text"
        lines.append(f"a pass over one picture{text} takes {single} more in fp32, {half} in bf16")
    config = scheduler_config(folder)
    if config is None:
        return "\n".join([*lines, "no scheduler beside it"])
    predict = PREDICTS.get(config.get("prediction_type", ""), "eps")
    process, predicts = process_of(config, family, predict, path.name)
    lines.append(f"predicts {predicts}; {config.get('_class_name')}, {process.steps} timesteps:")
    return "\n".join([*lines, *_noise(process)])


def _read(family: Family, folder: Path) -> str:
    """Pictures or latents, and what it is told."""
    side, parts = family.native_size, []
    if family.latent:
        vae = pipeline_folder(folder) / "vae" / "config.json"
        config = read_config(vae) if vae.is_file() else {}
        layout = LAYOUTS.get(config.get("_class_name", ""))
        pixels = side and layout and f"{side * layout.factor(config)} px as "
        parts.append(f"pictures of {pixels or ''}latents {family.channels} × {side} × {side}")
    else:
        parts.append(f"pictures of {side} px")
    if family.text is not None:
        pooled = "" if family.pooled is None else f" and a vector of {family.pooled}"
        parts.append(f"a text of width {family.text}{pooled}")
    if family.classes is not None:
        parts.append(f"one of {family.classes} classes")
    return ", ".join(parts)


def _noise(process: Process) -> list[str]:
    """Rows of timestep, noise for a signal of size 1, and log SNR = −2 ln of it."""
    first, rows = int(process.timesteps[0]), []
    for share in SHOWN:
        position = min(round(share * process.steps / 1000), process.steps - 1)
        level = float(process.noise_levels[position - first])
        rows.append(f"  {position:5d}  noise {level:9.4g}  log SNR {-2 * math.log(level):7.2f}")
    return rows
