"""A folder that diffusers saved, or a name on the hub: where its parts lie, and what they say."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from diffdict.backbones.hub.families.family import Family, diffusers_class
from diffdict.checkpoints.diffusers import STEM
from diffdict.errors import UserError, one_line
from diffdict.files import sha256

PARTS = ("unet", "transformer")  # what pipelines call their network
NAME = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = [
    "model_index.json",
    "config.json",
    f"{STEM}*.safetensors*",
    *(f"{part}/*" for part in (*PARTS, "vae", "scheduler")),
    *("text_encoder*/*", "tokenizer*/*"),
]
UNWANTED = ["*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*non_ema*", "*.fp16.*"]


def open_folder(checkpoint: str, revision: str | None) -> Path:
    """A path as it is; of a name on the hub the folder that it was fetched to."""
    path = Path(checkpoint)
    if path.exists() or not NAME.fullmatch(str(checkpoint)):
        return path
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"backbone.checkpoint={checkpoint} is no folder here, and names on the hub need "
            "huggingface_hub, which is not here: pip install 'diffdict[diffusers]'"
        ) from error
    try:
        return Path(
            snapshot_download(
                checkpoint, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED
            )
        )
    except Exception as error:  # the hub's client has a type for each of its answers
        kind = type(error).__name__
        if kind == "GatedRepoError":
            way = "accept its licence on its page, then say `hf auth login`"
        elif kind == "RevisionNotFoundError":
            way = f"it has no revision {revision}: choose another backbone.revision"
        elif kind == "RepositoryNotFoundError":
            way = "the hub knows no such name, or it is private: check the spelling"
        else:
            way = "the hub did not answer: check the network, or name a folder"
        raise UserError(
            f"backbone.checkpoint={checkpoint} is no folder here and was not fetched from the hub "
            f"({kind}: {one_line(error)[:120]}): {way}"
        ) from error


def network_folder(path: Path) -> Path:
    """Where the network's config.json lies: in a part of a pipeline, or beside the weights."""
    if path.is_file():
        return path.parent
    for part in PARTS:
        if (path / part).is_dir():
            return path / part
    return path


def pipeline_folder(network: Path) -> Path:
    """Of a network's folder the pipeline that it stands in; itself where it is alone."""
    return network.parent if network.name in PARTS else network


def read_config(path: Path) -> dict:
    """A config that diffusers wrote."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is missing or damaged: backbone.checkpoint names a folder as diffusers saves "
            "it, with config.json beside the weights"
        ) from error


def scheduler_config(network: Path) -> Mapping | None:
    """That of the pipeline, or one beside the network; None where there is none."""
    places = (network.parent / "scheduler", network / "scheduler", network)
    paths = [place / "scheduler_config.json" for place in places]
    return next((read_config(path) for path in paths if path.is_file()), None)


def load_network(family: Family, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, str]:
    """The folder's network and its files' hash; safetensors alone, in one file or in parts."""
    every = sorted(folder.glob(f"{STEM}*.safetensors"))
    whole = [path for path in every if path.name == f"{STEM}.safetensors"]
    parts = [path for path in every if "-of-" in path.name]
    paths = whole or parts or every[:1]
    if not paths:
        held = ", ".join(sorted(path.name for path in folder.glob("*"))[:4]) or "nothing"
        raise UserError(
            f"{folder} holds no {STEM}.safetensors but {held}: save it so where diffusers is, with "
            f"{family.kind}.from_pretrained(…).save_pretrained(…)"
        )
    variant = None if whole or parts else every[0].name.removeprefix(f"{STEM}.").split(".")[0]
    try:
        network = diffusers_class(family.kind).from_pretrained(
            folder,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=dtype,
        )
    except UserError:
        raise
    except Exception as error:  # what diffusers and safetensors say of files has many types
        raise UserError(
            f"{folder} holds no whole {family.kind} ({one_line(error)[:200]}): save it there again "
            "with save_pretrained"
        ) from error
    digests = [sha256(path) for path in paths]
    return network, digests[0] if len(digests) == 1 else " ".join(digests)
