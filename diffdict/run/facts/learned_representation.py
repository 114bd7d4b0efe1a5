"""The representation that a network learned with, as its weights say it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from diffdict import checkpoints
from diffdict.backbones.rcdm import RECIPE
from diffdict.checkpoints.read import read

ROOM = "diffdict."  # nothing else is ever built at a file's word
CHOSEN = "diffdict.representations."


def with_learned_representation(cfg: DictConfig) -> DictConfig:
    """Brings the weights' own representation to a condition, where none is typed, and says so."""
    checkpoint = (cfg.get("backbone") or {}).get("checkpoint")
    if cfg.get("condition") is None or cfg.get("representation") is not None or not checkpoint:
        return cfg
    recipe = learned_representation(checkpoint)
    if recipe is None:
        return cfg
    with open_dict(cfg):
        cfg.representation = recipe
    name = recipe.get("name") or recipe["_target_"].rpartition(".")[2]
    sentence = f"The representation is that of {checkpoint}: {name}"
    Console(soft_wrap=True).print(sentence, markup=False, highlight=False)
    return cfg


def learned_representation(checkpoint: str | Path) -> dict | None:
    """Its config, of a run's checkpoint or of exported weights at hand; None where none is said."""
    path = checkpoints.packaged().get(str(checkpoint), Path(checkpoint))
    if str(checkpoint) in checkpoints.releases() or not path.is_file():
        return None
    content, facts = read(path)
    config = content.get("config")
    try:
        if isinstance(config, Mapping):
            node = OmegaConf.select(OmegaConf.create(dict(config)), "representation")
            recipe = None if node is None else OmegaConf.to_container(node, resolve=True)
        else:
            recipe = json.loads(facts.get(RECIPE, "null"))
    except (OmegaConfBaseException, ValueError, RecursionError):
        return None
    if not isinstance(recipe, dict) or not str(recipe.get("_target_")).startswith(CHOSEN):
        return None
    return recipe if all(target.startswith(ROOM) for target in _targets(recipe)) else None


def _targets(node: object) -> Iterator[str]:
    """Every class that a config names."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from _targets(one)
