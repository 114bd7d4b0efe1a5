"""Gives a run that studies a dictionary what that was learned on, and says what this changes."""

from collections.abc import Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from diffdict.errors import UserError
from diffdict.files import on_hub
from diffdict.results.naming import typed_keys
from diffdict.run.rewrite import short
from diffdict.sae.card import check_card, read_dictionary

SPLITS = ("train", "val", "test")  # what pictures= may say beside a path
READERS = {  # by what steers samples: what reads pictures instead, and what steers those
    "diffdict.tasks.steering.SteeredPairs": (
        "diffdict.tasks.invert.PicturesToInvert",
        "diffdict.tasks.steering.SteeredPictures",
    ),
    "diffdict.tasks.causality.Causality": (
        "diffdict.tasks.invert.PicturesToMeasure",
        "diffdict.tasks.causality.Causality",
    ),
}
FILES = "diffdict.features.one_picture.PictureFiles"
SEVERAL = ("alignment", "steering")  # tasks that take more than one dictionary
ROOM = "diffdict.backbones."  # a card builds nothing else, unless it was typed


def with_dictionary(cfg: DictConfig) -> DictConfig:
    """The dictionary's backbone and noise win; its timestep and block where none was typed."""
    if "dictionary" not in cfg:
        return cfg
    choice = HydraConfig.get().runtime.choices.get("task")
    if cfg.dictionary is None:
        raise UserError(
            f"task={choice} studies a dictionary: dictionary=outputs/…, a run of task=sae, its "
            "last.ckpt or its dictionary/"
        )
    several = [cfg.dictionary] if isinstance(cfg.dictionary, str) else list(cfg.dictionary)
    if choice not in SEVERAL and not isinstance(cfg.dictionary, str):
        raise UserError(
            f"dictionary={cfg.dictionary} names several, and task={choice} takes one: a job each "
            "with -m dictionary=a,b"
        )
    for path in several:
        if not (on_hub(path) or Path(path).exists()):
            raise UserError(
                f"dictionary={path} is no file or folder here: name a run of task=sae, its "
                "last.ckpt or its dictionary/, or one on the hub by hf://USER/NAME"
            )
    _, card = read_dictionary(several[0], cfg.get("name"))
    check_card(card)
    _check_target(card["backbone"], cfg)
    override_keys = typed_keys(HydraConfig.get().overrides.task)
    noise = {"device": "cpu", **card["noise"]} if card.get("noise") else None
    facts = {"backbone": card["backbone"], "noise": noise}
    facts |= {key: card[key] for key in ("timestep", "block") if key not in override_keys}
    facts = {key: fact for key, fact in facts.items() if fact is not None}
    changed = {
        key: (plain, fact)
        for key, fact in facts.items()
        if (plain := _plain(cfg.get(key))) != fact and plain is not None
    }
    for key, fact in facts.items():
        cfg[key] = fact
    if changed:
        words = [
            f"{key} {short(new)} instead of {short(old)}" for key, (old, new) in changed.items()
        ]
        sentence = f"The dictionary's facts win: {'; '.join(words)}"
        Console(soft_wrap=True).print(sentence, markup=False, highlight=False)
    return cfg if cfg.get("pictures") is None else with_pictures(cfg)


def with_pictures(cfg: DictConfig) -> DictConfig:
    """Steers pictures that there are instead of samples: of a split, of a file or of a folder."""
    override_keys = typed_keys(HydraConfig.get().overrides.task)
    if "data.number" in override_keys or "seed" in override_keys:
        raise UserError(
            f"pictures={cfg.pictures} are steered, or samples from noise (data.number=, seed=): "
            "leave one of them out"
        )
    side = cfg.backbone.image_size
    files = {"_target_": FILES, "_partial_": True, "path": cfg.pictures, "image_size": side}
    dataset = _plain(cfg.dataset) if cfg.pictures in SPLITS else files
    at_once = min(16, cfg.data.batch_size)
    reader, steerer = READERS[cfg.model._target_]
    with open_dict(cfg):
        cfg.data = {
            "_target_": reader,
            "dataset": dataset,
            "split": cfg.pictures if cfg.pictures in SPLITS else "test",
            "shard_size": cfg.data.get("shard_size", at_once),
            "batch_size": at_once,
        }
        cfg.model._target_ = steerer
        cfg.model.level = cfg.level
    return cfg


def _check_target(backbone: object, cfg: DictConfig) -> None:
    """Refuses to build anything but a backbone of ours, or the one that was typed."""
    target = backbone.get("_target_") if isinstance(backbone, Mapping) else None
    choice = OmegaConf.select(cfg, "backbone._target_")
    if isinstance(target, str) and (target.startswith(ROOM) or target == choice):
        return
    raise UserError(
        f"The card's backbone is refused: its _target_ must lie in {ROOM}*, got {target!r}. Where "
        "you trust it, say backbone._target_= yourself"
    )


def _plain(value: object) -> object:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
