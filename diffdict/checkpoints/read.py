"""Checkpoint files opened without running what is in them, and the weights found inside."""

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffdict.checkpoints.architecture import PDAE_FACTS, TRAINABLE
from diffdict.checkpoints.released import VISSL, proven, releases, resolve
from diffdict.errors import UserError, first_few, one_line

# Where weights lie in the files of this field, averaged ones first.
PLACES = (
    *(
        "ema",
        "ema_state_dict",
        "model_ema",
        "state_dict_ema",
        "ema_denoise_fn",
        "ema_decoder",
        "EMA",
    ),
    *("state_dict", "model", "model_state_dict", "MODEL", "params", "network", "net"),
    "ema_encoder",  # of PDAE, where it was trained alone
    "teacher",  # of DINO: the average of its student
)
# DataParallel, torch.compile and DDAE's frameworks put these before every key.
WRAPPERS = ("module.", "_orig_mod.", "nn_model.")
AVERAGES = ("ema_", "")  # before the names of PDAE's parts
# what scripts say of themselves beside the weights
PLAIN = ("config", "hyper_parameters", "args", PDAE_FACTS)
LIGHTNING = "pytorch-lightning_version"


class RefusedPickle(UserError):
    """A file that would run code of its own."""


class Weights(NamedTuple):
    """What a checkpoint holds for a network."""

    state: dict[str, Tensor]
    sha256: str  # of the file
    path: Path
    facts: dict  # layout, and what else the file says of itself


def load_state_dict(
    checkpoint: str | Path, layout: str | None = None, folder: str | Path | None = None
) -> Weights:
    """The network's weights in a released, packaged or own checkpoint.

    layout: "flat", "lightning" (our own run) or the key that holds the weights; None finds out.
    """
    path = resolve(checkpoint, folder)
    content, facts = read(path)
    digest = proven(checkpoint, path)
    if layout is None and str(checkpoint) in releases():
        layout = releases()[str(checkpoint)].layout
    layout = layout or find_layout(content, path)
    state = unwrapped(weights_at(content, layout, path))
    return Weights(state, digest, path, {"layout": layout, **facts})


def read(path: Path) -> tuple[Mapping, dict]:
    """All that the file holds, and what it says of itself in plain values."""
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_what_is_no_checkpoint(path, head)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    content = _read_torch(path)
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__}, not a dictionary of weights. "
            f"Save it again with torch.save(network.state_dict(), …)."
        )
    return content, _plain_facts(content)


def _refuse_what_is_no_checkpoint(path: Path, head: bytes) -> None:
    text = head.lstrip().lower()
    if not head:
        what = "is empty: a download or a copy was cut"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "is a web page, not weights: the address asked for a login or has moved"
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the weights: run `git lfs pull` where it came from"
    else:
        return
    raise UserError(f"{path} {what}. Fetch the file again.")


def _read_safetensors(path: Path) -> tuple[Mapping, dict]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise UserError(_damaged(path, "safetensors file", error)) from error


def _read_torch(path: Path) -> object:
    try:
        # Namespace: MAE's own script saves its arguments beside the weights. Nothing else is built.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it then refuses
            mapped = zipfile.is_zipfile(path)  # read lazily: an optimizer's state is never loaded
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        message = str(error)
        forbidden = re.search(r"GLOBAL (\S+)", message) or re.search(
            r"(Trying to|Can only) .+", message
        )
        if forbidden:
            name = forbidden[1] if forbidden[0].startswith("GLOBAL") else forbidden[0]
            raise RefusedPickle(
                f"{path} is refused: opening it would run code of its own ({name.rstrip('.')}). "
                f"If you trust it, save its weights alone with "
                f"torch.save(network.state_dict(), …) where it was made."
            ) from error
        raise UserError(_damaged(path, "torch checkpoint", error)) from error
    except Exception as error:  # torch raises nearly anything on torn bytes
        raise UserError(_damaged(path, "torch checkpoint", error)) from error


def _damaged(path: Path, what: str, error: Exception) -> str:
    why = one_line(error).removeprefix("PytorchStreamReader failed ")
    if "Weights only load failed" in why:
        _, mark, why = why.partition("WeightsUnpickler error: ")
        why = why.partition(" Check the doc")[0] if mark else "its bytes are no pickle of torch's"
    return (
        f"{path} is no whole {what}: {why.partition('. ')[0].rstrip('.')[:160]}. "
        f"It was cut or damaged, or it is something else: fetch or save it again."
    )


def _plain_facts(content: Mapping) -> dict:
    """What stands beside the weights in plain words and numbers."""
    facts = {}
    for key, value in content.items():
        value = vars(value) if isinstance(value, argparse.Namespace) else value
        if isinstance(value, str | int | float | bool) or key in PLAIN:
            facts[str(key)] = value
    return facts


def config_of(checkpoint: str | Path) -> dict:
    """The config that a run of ours kept in its checkpoint."""
    path = resolve(checkpoint)
    content, _ = read(path)
    if not isinstance(content.get("config"), dict):
        raise UserError(
            f"{path} keeps no config, so it was not written by train.py: "
            f"name a run's checkpoint, such as outputs/…/last.ckpt."
        )
    return content["config"]


def find_layout(content: Mapping, path: Path) -> str:
    """How this file must be opened, found out from what it holds."""
    if LIGHTNING in content:
        return "lightning"
    if _is_weights(content):
        return "flat"
    if any(_is_pdae(content, average) for average in AVERAGES):
        return "pdae"
    if VISSL.partition(".")[0] in content:
        return VISSL
    networks = [str(key) for key, value in content.items() if _is_weights(value)]
    layouts = [place for place in PLACES if place in networks]
    if layouts:
        return layouts[0]
    if len(networks) == 1:
        return networks[0]
    raise UserError(
        f"{path} holds {'several networks' if networks else 'no network'}: its entries are "
        f"{first_few(content)}. Name the right one with layout=… ."
    )


def weights_at(content: Mapping, layout: str, path: Path) -> dict[str, Tensor]:
    """The weights that this layout points at."""
    if layout == "lightning":
        return _of_lightning(content.get("state_dict"), path)
    if layout == "pdae":
        return _of_pdae(content, path)
    if layout == VISSL:
        return _of_vissl(content, path)
    entries = content if layout == "flat" else content.get(layout)
    if not _is_weights(entries):
        raise UserError(
            f"{path} does not hold weights as layout={layout} says: its entries are "
            f"{first_few(content)}. Try layout=null, which finds out."
        )
    return {key: value for key, value in entries.items() if isinstance(value, Tensor)}


def _of_lightning(state: object, path: Path) -> dict[str, Tensor]:
    """The network, averaged as far as the run kept an average: of what learned, not of the rest."""
    state = state if isinstance(state, Mapping) else {}
    inside = {
        key.removeprefix(prefix): value
        for prefix in ("net.", "ema.")
        for key, value in state.items()
        if key.startswith(prefix)
    }
    if inside:
        return inside
    tops = sorted({key.partition(".")[0] for key in state})
    raise UserError(
        f"{path} holds no network under `net.`, but {first_few(tops)}: it is no run of "
        "task=diffusion or task=pdae. Give a backbone's checkpoint, or "
        "layout=state_dict for another's Lightning file."
    )


def _is_pdae(content: Mapping, average: str) -> bool:
    """Whether a file of PDAE's or DiTi's holds encoder and decoder, averaged or not."""
    decoder = content.get(f"{average}decoder")
    return (
        _is_weights(content.get(f"{average}encoder"))
        and _is_weights(decoder)
        and any(key.endswith("shift_out.2.weight") for key in decoder)
    )


def _of_pdae(content: Mapping, path: Path) -> dict[str, Tensor]:
    """Encoder, frozen U-Net and shift half, each under its own prefix, averages first."""
    average = next((average for average in AVERAGES if _is_pdae(content, average)), None)
    if average is None:
        raise UserError(
            f"{path} does not hold weights as layout=pdae says, encoder and decoder: its entries "
            f"are {first_few(content)}. Try layout=null, which finds out."
        )
    parts = {}
    for name in ("encoder", "decoder"):
        weights = content[f"{average}{name}"]
        weights = unwrapped(
            {key: value for key, value in weights.items() if isinstance(value, Tensor)}
        )
        for key, value in weights.items():
            half = "shift" if key.startswith(TRAINABLE) else "denoiser"
            parts[f"{'encoder' if name == 'encoder' else half}.{key}"] = value
    return parts


def _of_vissl(content: Mapping, path: Path) -> dict[str, Tensor]:
    """Trunk and heads of a VISSL file, each under its own prefix."""
    inner: object = content
    for key in VISSL.split("."):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not _is_weights(inner.get("trunk")):
        raise UserError(
            f"{path} does not hold weights as layout={VISSL} says, a trunk and heads: its entries "
            f"are {first_few(content)}. Try layout=null, which finds out."
        )
    parts = {part: inner[part] for part in ("trunk", "heads") if _is_weights(inner.get(part))}
    return {f"{part}.{key}": value for part in parts for key, value in parts[part].items()}


def _is_weights(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(tensor, Tensor) for tensor in value.values())
        and all(isinstance(tensor, Tensor) or key == "_metadata" for key, tensor in value.items())
    )


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that the bare network gives them."""
    averaged = {key for key in state if key.startswith("ema_model.")}  # ema_pytorch keeps both
    if averaged:
        state = {key.removeprefix("ema_model."): state[key] for key in state if key in averaged}
    while any(all(key.startswith(wrapper) for key in state) for wrapper in WRAPPERS):
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return {key.replace("_orig_mod.", ""): value for key, value in state.items()}
