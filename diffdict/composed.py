"""Configs as they are run: under the facts of an earlier run, with a network of one's own."""

import sys
from contextlib import suppress
from copy import copy
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from diffdict import checkpoints
from diffdict.backbones.own import wrapped
from diffdict.errors import UserError

LOOKING = ("timestep", "block", "noise")  # how a labeller saw the pictures that it learned from
# what evaluate.py takes from its own command line, never from the checkpoint's config
EVALUATION = (
    *("trainer", "callbacks", "report", "logger", "paths", "seed", "ckpt_path", "tags"),
    *("picture", "names"),
)


def labelled(cfg: DictConfig) -> DictConfig:
    """The config of an extraction; where it has a labeller, that one's facts win, and it is said.

    A labeller's backbone draws the samples too, unless it is no diffusion network.
    """
    if cfg.get("labeller") is None:
        return cfg
    kept = OmegaConf.create(checkpoints.config_of(cfg.labeller))
    if "PixelMLP" not in str(OmegaConf.select(kept, "model._target_")):
        raise UserError(
            f"labeller={cfg.labeller} is no run of task=pixel_mlp, which learns to label: "
            "python train.py task=pixel_mlp …"
        )
    kept.paths = cfg.paths  # where things lie on this machine
    backbone = _plain(kept.backbone)
    draws = "predict" in backbone  # only diffusion networks say what they predict
    facts = {key: _plain(kept[key]) for key in LOOKING} | ({"backbone": backbone} if draws else {})
    _say({key: (_plain(cfg[key]), fact) for key, fact in facts.items()})
    if not draws:
        asked = _short(_plain(cfg.backbone))
        print(f"The labeller looks through {_short(backbone)}; what it labels is drawn by {asked}")
    for key, fact in facts.items():
        cfg[key] = fact
    built = {"_target_": "hydra.utils.instantiate", "_partial_": True, "_recursive_": False}
    cfg.model.labeller = {
        "_target_": "diffdict.tasks.labeller.open_labeller",
        "_partial_": True,
        "checkpoint": cfg.labeller,
        "backbone": None if draws else {**built, "config": backbone},
        **{key: facts[key] for key in LOOKING},
        **{key: kept.data.get(key) for key in ("dtype", "compute", "sae")},
        "vote": kept.model.vote,
    }
    return cfg


def _plain(value: object) -> object:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _say(pairs: dict[str, tuple[object, object]]) -> None:
    """What is not as it was asked for."""
    won = [
        f"{key} {_short(fact)} instead of {_short(asked)}"
        for key, (asked, fact) in pairs.items()
        if asked != fact
    ]
    if won:
        told = f"The labeller's facts win: {'; '.join(won)}"
        Console(soft_wrap=True).print(told, markup=False, highlight=False)


def _short(value: object) -> str:
    """A backbone by its name and weights."""
    if isinstance(value, dict) and "name" in value:
        return f"{value['name']} ({value.get('checkpoint', 'no weights')})"
    return str(value)


def trained(cfg: DictConfig) -> DictConfig:
    """The config that a checkpoint was trained with, and over it what is said now."""
    kept = checkpoints.config_of(cfg.ckpt_path)
    typed = {said.split("=")[0].lstrip("+~") for said in HydraConfig.get().overrides.task}
    merged = OmegaConf.create(kept)
    for key in EVALUATION:
        merged[key] = cfg[key]
    if cfg.dataset is not None:
        merged.dataset = cfg.dataset  # whole: no key of the old one stays; the backbone does
    for key in typed & {"timestep", "block"}:
        merged[key] = cfg[key]
    for key in cfg.data:
        if not OmegaConf.is_missing(cfg.data, key):
            merged.data[key] = cfg.data[key]
    merged.model.update(cfg.get("model") or {})  # +model.vote=soft
    return merged


def resumed(cfg: DictConfig) -> DictConfig:
    """A sweep's job that was stopped goes on from its own last.ckpt, if that is of the same job."""
    hydra = HydraConfig.get()
    last = Path(hydra.runtime.output_dir) / "last.ckpt"
    if hydra.mode != RunMode.MULTIRUN or cfg.ckpt_path is not None or not last.exists():
        return cfg
    again = OmegaConf.merge(cfg, {"ckpt_path": str(last)})
    with suppress(UserError):  # a checkpoint that cannot be read: the job begins anew
        kept = OmegaConf.merge(checkpoints.config_of(last), {"ckpt_path": str(last)})
        if _resolved(kept) == _resolved(adopted(again)):
            print(f"Goes on from {last}", file=sys.stderr)
            sys.argv.append(f"ckpt_path='{last}'")  # for the ranks that this one starts
            return again
    return cfg


def _resolved(cfg: DictConfig) -> dict:
    return OmegaConf.to_container(cfg, resolve=True)


def adopted(cfg: DictConfig) -> DictConfig:
    """The same config with a network from outside diffdict as one of ours.

    Typed over another network's target, it keeps nothing of that one but what was typed too.
    """
    node = cfg.get("backbone")
    if node is None or node["_target_"].startswith("diffdict."):
        return cfg
    said = {word.lstrip("+").split("=")[0] for word in HydraConfig.get().overrides.task}
    typed = {place.split(".")[1] for place in said if place.startswith("backbone.")}
    kept = [key for key in node if "_target_" not in typed or key in typed]
    ours = copy(cfg)
    with open_dict(ours):
        ours.backbone = wrapped(OmegaConf.to_container(OmegaConf.masked_copy(node, kept)))
        if "_target_" in typed and "block" not in said:
            ours.block = "all"
    return ours
