"""Configs under the facts of an earlier run: a labeller's over those of an extraction."""

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffdict import checkpoints
from diffdict.errors import UserError

LOOKING = ("timestep", "block", "noise")  # how a labeller saw the pictures that it learned from


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
