"""Dictionaries of raw tokens on disk, in SAELens's layout; our own and strangers' are read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float64, Int64
from safetensors.torch import save
from torch import Tensor

from diffdict import checkpoints, files
from diffdict.errors import UserError
from diffdict.sae.base import Sae
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import Matryoshka, TopK
from diffdict.sae.variants import find_variant, path_of

CONFIG, WEIGHTS, CARD = "cfg.json", "sae_weights.safetensors", "card.json"
LAYOUT = "6.54.12"  # the version of SAELens whose layout this is; older ones are guessed at there
VECTORS = {  # besides W_enc, W_dec, b_dec: one number a latent
    "standard": ("b_enc",),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "jumprelu": ("b_enc", "threshold"),
    "topk": ("b_enc",),
}


def export(sae: Sae, folder: str | Path, card: Mapping[str, object]) -> Path:
    """cfg.json and sae_weights.safetensors as SAELens loads them, and card.json: all or nothing.

    Mean and scale of the tokens are folded in: codes and reconstructions of raw tokens are ours.
    Latents stand by falling frequency (in a Matryoshka within their group: prefixes stay prefixes);
    `order` in the card says which ones they were in training.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} holds other files than a dictionary's, which an export would replace: "
            f"choose another folder"
        )
    order = by_frequency(sae)
    weights = {key: value.float().contiguous() for key, value in _folded(sae, order).items()}
    if bad := [key for key, value in weights.items() if not bool(value.isfinite().all())]:
        raise UserError(
            f"The dictionary for {folder} is not exported: {', '.join(bad)} are no numbers, the "
            f"training has diverged. Go back to an earlier checkpoint"
        )
    frequency = sae.frequency.cpu()[order].tolist() if bool(sae.frequency.any()) else None
    ranked = {"frequency": frequency, "order": order.tolist()}  # null: never validated
    return files.write_folder(
        folder,
        {
            WEIGHTS: save(weights, {"format": "pt"}),
            CONFIG: _lines(_config(sae, card)),
            CARD: _lines({**card, **ranked}),
        },
    )


def by_frequency(sae: Sae) -> Int64[Tensor, " latents"]:
    """The latents, most frequent first; a Matryoshka's first group first."""
    order = torch.argsort(sae.frequency.cpu(), descending=True, stable=True)
    if isinstance(sae, Matryoshka):
        order = order[torch.argsort(sae.group.cpu()[order], stable=True)]
    return order


def _folded(sae: Sae, order: Tensor) -> dict[str, Float64[Tensor, "..."]]:
    """The weights of an autoencoder of raw tokens with the same codes, by SAELens's names.

    s · (x − mean) − b_dec = s · (x − (mean + b_dec / s)): what remains of both is its b_dec.
    Where the encoder takes off no b_dec, its bias takes off the mean.
    """
    wide = {name: value.detach().cpu().double() for name, value in sae.state_dict().items()}
    scale = wide["token_scale"]
    rows = sae.dictionary.detach().cpu().double()
    weights = {
        "W_enc": (wide["W_enc"][order] * scale).T,
        "W_dec": rows[order] / scale,
        "b_dec": wide["mean"] + wide["b_dec"] / scale,
    }
    if sae.inference == "gated":
        pairs = {"b_gate": "b_enc", "b_mag": "b_mag", "r_mag": "r_mag"}
        weights |= {theirs: wide[ours][order] for theirs, ours in pairs.items()}
    else:
        weights["b_enc"] = wide["b_enc"][order]
    if "threshold" in wide:  # codes are ours, so thresholds are too
        weights["threshold"] = wide["threshold"].expand(sae.latents)[order]
    return weights if sae.apply_b_dec_to_input else _shifted(weights, -wide["mean"])


def _shifted(weights: Mapping[str, Tensor], by: Tensor) -> dict[str, Float64[Tensor, "..."]]:
    """The biases of an encoder that sees x and answers as if it saw x + by."""
    more, biases = by @ weights["W_enc"], {}
    for name in ("b_enc", "b_gate", "b_mag"):
        if name in weights:
            stretch = weights["r_mag"].exp() if name == "b_mag" else 1
            biases[name] = weights[name] + more * stretch
    return {**weights, **biases}


def _config(sae: Sae, card: Mapping[str, object]) -> dict[str, object]:
    ours = {"class": path_of(type(sae)), "options": sae.options}
    form = {"token_scale": sae.token_scale.item(), "mean": sae.mean.tolist()}
    name = card["backbone"].get("name") if isinstance(card.get("backbone"), Mapping) else None
    config = {
        "architecture": sae.inference,
        "d_in": sae.d_in,
        "d_sae": sae.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": LAYOUT, "model_name": name, "diffdict": {**ours, **form}},
    }
    return config | ({"k": sae.k} if sae.inference == "topk" else {})


def _lines(facts: Mapping[str, object]) -> bytes:
    """JSON with a line a fact: what is short can be read, what is long stays out of the way."""
    lines = (f"{files.json_text(key)}: {files.json_text(value)}" for key, value in facts.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def load(folder: str | Path) -> Sae:
    """The dictionary of an export: ours as the class it was, a stranger's as the same maths."""
    path = Path(folder) / CONFIG
    config = read_json(path)
    metadata = config.get("metadata")
    entry = metadata.get("diffdict") if isinstance(metadata, Mapping) else None
    architecture = _architecture(config, path)
    weights = _checked(Path(folder) / WEIGHTS, config, architecture)
    variant = None if entry is None else _variant(entry, path)
    if variant is None:
        return from_saelens(config, architecture, weights, path)
    if variant.inference != architecture:
        raise _strange(path, f"architecture {architecture!r} beside {variant.architecture!r}")
    sae = _made(variant, entry, config, path)
    _unfold(sae, weights)
    card = Path(folder) / CARD
    frequency = read_json(card).get("frequency") if card.is_file() else None
    if isinstance(frequency, list) and len(frequency) == sae.latents:
        sae.frequency.copy_(torch.tensor(frequency))
    return sae


def read_json(path: Path) -> dict:
    """The facts of a JSON file."""
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is no dictionary: it has no {path.name}. Name a folder that holds "
            f"{CONFIG} and {WEIGHTS}, such as outputs/…/dictionary"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is no whole JSON ({error}): export or fetch it again") from error
    if not isinstance(facts, dict):
        raise UserError(f"{path} must hold facts by name, it holds a {type(facts).__name__}")
    return facts


def _architecture(config: Mapping, path: Path) -> str:
    """SAELens's word; before its version 6 a TopK was a standard one with another activation."""
    kwargs = config.get("activation_fn_kwargs")
    if config.get("activation_fn_str", config.get("activation_fn")) == "topk":
        return "topk" if isinstance(kwargs, Mapping) and "k" in kwargs else "standard"
    architecture = config.get("architecture", "standard")
    if architecture not in VECTORS:
        raise UserError(
            f"{path} says architecture={architecture!r}; what can be read is {', '.join(VECTORS)}. "
            f"A batchtopk or matryoshka_batchtopk in training becomes jumprelu with SAELens's "
            f"save_inference_model"
        )
    return architecture


def _checked(path: Path, config: Mapping, architecture: str) -> dict[str, Float64[Tensor, "..."]]:
    """The weights under their names, of the sizes that the config says, every one a number."""
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}: export or fetch the whole folder again")
    weights = checkpoints.load_state_dict(path, "flat").state
    if "scaling_factor" in weights and bool((weights["scaling_factor"] == 1).all()):
        del weights["scaling_factor"]  # of fine-tuning that never was; old exports carry it
    d_in, latents = config.get("d_in"), config.get("d_sae")
    wanted = {"W_enc": (d_in, latents), "W_dec": (latents, d_in), "b_dec": (d_in,)}
    wanted |= dict.fromkeys(VECTORS[architecture], (latents,))
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    for name in [*wanted, *shapes]:
        if wanted.get(name) != shapes.get(name):
            raise UserError(
                f"{path} does not hold what {CONFIG} says (architecture={architecture}, "
                f"d_in={d_in}, d_sae={latents}): its {name} is {shapes.get(name, 'missing')}, "
                f"wanted {wanted.get(name, 'none')}. Export or fetch the two files together"
            )
    if bad := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise UserError(
            f"{path} holds weights that are no numbers: {', '.join(bad)}. Go back to an earlier one"
        )
    return {name: value.double() for name, value in weights.items()}


def _variant(entry: object, path: Path) -> type[Sae] | None:
    """The class that was exported; None for one of somebody's own, with the same codes here."""
    try:
        variant = find_variant(entry["class"])
        ours = entry["class"].startswith(f"{__package__}.")
    except (KeyError, TypeError, AttributeError) as error:
        raise _strange(path, repr(error)) from error
    if variant is None and ours:
        raise _strange(path, f"no {entry['class']} here")
    return variant


def _made(variant: type[Sae], entry: Mapping, config: Mapping, path: Path) -> Sae:
    """Our own variant, as yet without its weights."""
    try:
        form = torch.tensor(entry["mean"]), entry["token_scale"]
        if not (form[1] > 0 and math.isfinite(form[1]) and form[0].shape == (config["d_in"],)):
            raise ValueError("mean and token_scale")
        return variant(config["d_in"], *form, latents=config["d_sae"], **entry["options"])
    except (KeyError, TypeError, ValueError) as error:
        raise _strange(path, repr(error)) from error


def _strange(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is not as diffdict writes it ({what}): export the dictionary again, or take "
        f"`diffdict` out of its metadata to read it as anybody's"
    )


def from_saelens(
    config: Mapping, architecture: str, weights: Mapping[str, Float64[Tensor, "..."]], path: Path
) -> Sae:
    """A dictionary in SAELens's words as one of ours, with the same codes."""
    normalised = config.get("normalize_activations") or "none"
    if normalised != "none":
        raise UserError(
            f"{path} says normalize_activations={normalised}: only dictionaries of raw tokens can "
            f"be read. In SAELens, fold it into the weights first "
            f"(sae.fold_activation_norm_scaling_factor(factor), then sae.save_model(folder))"
        )
    weights = dict(weights)
    shape = {"latents": config["d_sae"], "normalise": "none"}  # rows keep the lengths they have
    shape["apply_b_dec_to_input"] = config.get("apply_b_dec_to_input", True) is not False
    if architecture != "topk":
        variant = {"standard": Relu, "gated": Gated, "jumprelu": JumpRelu}[architecture]
        return _unfold(variant(config["d_in"], **shape), weights)
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    if type(k) is not int:
        raise UserError(f"{path} must say k, the number of active latents, it says {k!r}")
    if config.get("rescale_acts_by_decoder_norm", False):  # codes are measured in lengths of rows
        lengths = weights["W_dec"].norm(dim=1)
        weights["W_enc"] = weights["W_enc"] * lengths
        weights["b_enc"] = weights["b_enc"] * lengths
        weights["W_dec"] = weights["W_dec"] / lengths[:, None]
    return _unfold(TopK(config["d_in"], k=k, **shape), weights)


@torch.no_grad()
def _unfold(sae: Sae, weights: Mapping[str, Float64[Tensor, "..."]]) -> Sae:
    """The weights of an autoencoder of raw tokens, in the standard form of this one."""
    scale, mean = sae.token_scale.double(), sae.mean.double()
    weights = weights if sae.apply_b_dec_to_input else _shifted(weights, mean)
    sae.W_enc.copy_(weights["W_enc"].T / scale)
    sae.W_dec.copy_(weights["W_dec"] * scale)
    sae.b_dec.copy_((weights["b_dec"] - mean) * scale)
    sae.b_enc.copy_(weights["b_gate" if sae.inference == "gated" else "b_enc"])
    if sae.inference == "gated":
        sae.b_mag.copy_(weights["b_mag"])
        sae.r_mag.copy_(weights["r_mag"])
    if "threshold" in weights:
        threshold = weights["threshold"]
        sae.threshold.copy_(threshold.mean() if sae.threshold.ndim == 0 else threshold)
    return sae.eval()
