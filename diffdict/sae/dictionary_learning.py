"""Dictionaries of dictionary_learning (its ae.pt) and of the notebook that diffdict grew out of."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from diffdict.checkpoints import load_state_dict
from diffdict.checkpoints.read import find_layout, read
from diffdict.errors import UserError
from diffdict.sae.base import Sae
from diffdict.sae.saelens import from_saelens


class Kind(NamedTuple):
    """One of its classes in SAELens's words."""

    architecture: str
    centred: bool  # whether the encoder sees x − b_dec
    names: dict[str, str]  # SAELens's → its own; a name of its own that ends in .T is transposed
    unit: bool = False  # whether it decodes with rows of length 1, whatever the file's are


LINEAR = {"W_enc": "encoder.weight.T", "W_dec": "decoder.weight.T"}
BIAS = {"b_enc": "encoder.bias"}
NOTEBOOK = {  # nn.Sequential(nn.Linear, nn.ReLU), and nn.Linear
    "W_enc": "encoder.0.weight.T",
    "b_enc": "encoder.0.bias",
    "W_dec": "decoder.weight.T",
    "b_dec": "decoder.bias",
}
PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
GATES = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
KINDS = {
    "AutoEncoder": Kind("standard", True, {**LINEAR, **BIAS, "b_dec": "bias"}),
    "AutoEncoderNew": Kind("standard", False, {**LINEAR, **BIAS, "b_dec": "decoder.bias"}),
    "GatedAutoEncoder": Kind("gated", True, {**LINEAR, **GATES, "b_dec": "decoder_bias"}),
    "JumpReluAutoEncoder": Kind("jumprelu", False, PLAIN),
    "MatryoshkaBatchTopKSAE": Kind("jumprelu", True, PLAIN),
    "AutoEncoderTopK": Kind("topk", True, {**LINEAR, **BIAS, "b_dec": "b_dec"}),
    "BatchTopKSAE": Kind(
        "jumprelu", True, {**LINEAR, **BIAS, "b_dec": "b_dec", "threshold": "threshold"}
    ),
    "SAE of train-sae.ipynb": Kind("standard", False, NOTEBOOK, unit=True),
}


def load(path: str | Path) -> Sae:
    """The dictionary in the file; where classes share their names, config.json beside it decides.

    Codes are those of the class: nothing is brought to length 1 that it does not bring there.
    """
    path = Path(path)
    whole = load_state_dict(path, _layout(path)).state
    state = _bare(whole)
    kind = KINDS[_class_of(path, state, list(whole))]
    weights = {}
    for theirs, key in kind.names.items():
        value = state[key.removesuffix(".T")].double()
        weights[theirs] = value.T if key.endswith(".T") else value
    if kind.unit:
        weights["W_dec"] = F.normalize(weights["W_dec"], dim=1)
    d_in, latents = weights["W_enc"].shape
    if kind.architecture == "jumprelu":  # one threshold for all, or one each
        weights["threshold"] = weights["threshold"].expand(latents)
    _check(path, weights, d_in, latents)
    config = {"d_in": d_in, "d_sae": latents, "apply_b_dec_to_input": kind.centred}
    if kind.architecture == "topk":
        config["k"] = int(state["k"])
    return from_saelens(config, kind.architecture, weights, path)


def _layout(path: Path) -> str:
    """Where the weights lie; a Lightning module's as it names them."""
    layout = find_layout(read(path)[0], path)
    return "state_dict" if layout == "lightning" else layout


def _bare(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without what a module around the dictionary puts before every name: model.encoder.0.weight"""
    while len(tops := {name.partition(".")[0] for name in state}) == 1 and tops.isdisjoint(state):
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def _class_of(path: Path, state: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """Told by config.json, else by the names in the file."""
    dict_class = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        dict_class = json.loads(path.with_name("config.json").read_text())["trainer"]["dict_class"]
    fitting = [
        name
        for name, kind in KINDS.items()
        if {key.removesuffix(".T") for key in kind.names.values()} <= state.keys()
        and (kind.architecture != "topk" or "k" in state)
        and ("group_sizes" in state) == (name == "MatryoshkaBatchTopKSAE")
    ]
    if dict_class in fitting:
        return dict_class
    if len(fitting) == 1 and dict_class is None:
        return fitting[0]
    if dict_class is None and fitting:
        raise UserError(
            f"{path} may be {' or '.join(fitting)} of dictionary_learning: put its config.json "
            f"beside it, which says dict_class"
        )
    raise UserError(
        f"{path} holds no dictionary: it is no run of task=sae and no "
        f"{dict_class or 'class that is known'}, it holds {', '.join(names[:8])}. "
        f"What can be read is {', '.join(KINDS)}, and of a run its last.ckpt or dictionary/"
    )


def _check(
    path: Path, weights: Mapping[str, Float64[Tensor, "..."]], d_in: int, latents: int
) -> None:
    for name, value in weights.items():
        wanted = {"W_enc": (d_in, latents), "W_dec": (latents, d_in), "b_dec": (d_in,)}
        if tuple(value.shape) != wanted.get(name, (latents,)):
            raise UserError(
                f"{path} holds parts of different sizes: its {name} is {tuple(value.shape)}, "
                f"wanted {wanted.get(name, (latents,))}. Save it again"
            )
        if not bool(value.isfinite().all()):
            raise UserError(f"{path} holds weights that are no numbers: {name}")
