"""The extraction that a run lacks, as a command: the run's own words, and what they leave out."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffdict.errors import UserError, command, override
from diffdict.features.locations import where
from diffdict.features.store.missing import MissingFeatures

GROUPS = {"dataset": "dataset", "dataset/real": "dataset.real", "backbone": "backbone"}
STORED = (
    "paths",
    "dataset",
    "backbone",
    "noise",
    "pool",
)  # what tells one feature store from another
CARRIED = (
    "dataset",
    "domain",
    "backbone",
    "noise",
    "pool",
    "paths",
    "local",
)  # roots of words, in order


@contextmanager
def advising(cfg: DictConfig) -> Iterator[None]:
    """Where features are missed inside, the error says how this run's are made."""
    try:
        yield
    except MissingFeatures as missing:
        raise UserError(advised(missing, cfg)) from missing


def advised(error: UserError, cfg: DictConfig) -> str:
    """What the error says, with the command that fits this config where features are missing."""
    if not isinstance(error, MissingFeatures):
        return str(error)
    return error.saying(extraction(cfg, error) or error.outline)


def extraction(cfg: DictConfig, missing: MissingFeatures) -> str | None:
    """The `extract.py` of the same config; None where no words come to it."""
    if not HydraConfig.initialized() or not GlobalHydra().is_initialized():
        return None
    words = [word for word in HydraConfig.get().overrides.task if _root(word) in CARRIED]
    try:
        words = _chosen(cfg, words)
        for place in STORED:
            words += _lacking(cfg, words, [place])
        if _lacking(cfg, words, STORED):
            return None
    except (HydraException, OmegaConfBaseException):
        return None
    words.sort(key=lambda word: (CARRIED.index(_root(word)), "." in _key(word)))
    pairs = [missing.timestep, cfg.get("timestep")], [missing.block, cfg.get("block")]
    places = where(*(next((one for one in each if one is not None), None) for each in pairs))
    return command("python", "extract.py", *_flags(), *words, *places, *_split(cfg, missing))


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def _root(word: str) -> str:
    return re.split(r"[./]", _key(word))[0]


def _chosen(cfg: DictConfig, words: list[str]) -> list[str]:
    """The words, and the options that an experiment or a checkpoint has chosen instead of them."""
    hydra = HydraConfig.get()
    of_checkpoint = hydra.job.config_name == "evaluate" and cfg.get("ckpt_path") is not None
    for group, place in GROUPS.items():
        if any(_key(word) == group for word in words) or OmegaConf.select(cfg, place) is None:
            continue
        option = hydra.runtime.choices.get(group)
        if of_checkpoint:
            option = _nearest(group, place, cfg, words)
        if option is not None and option != _composed(words).hydra.runtime.choices.get(group):
            words = [*words, f"{group}={option}"]
    return words


def _nearest(group: str, place: str, cfg: DictConfig, words: Sequence[str]) -> str | None:
    """The option of its own name, or the one that a checkpoint's config differs least from."""
    wanted, distances = _node(cfg, place), {}
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    for option in [wanted["name"]] if wanted.get("name") in options else options:
        with suppress(HydraException, OmegaConfBaseException):  # no option beside the other words
            node = _node(_composed([*words, f"{group}={option}"]), place)
            distances[option] = len(list(_changes(place, node, wanted)))
    return min(distances, key=distances.get, default=None)


def _lacking(cfg: DictConfig, words: Sequence[str], places: Sequence[str]) -> list[str]:
    """What the words leave out of this config's nodes."""
    base = _composed(words)
    return [
        word for place in places for word in _changes(place, _node(base, place), _node(cfg, place))
    ]


def _composed(words: Sequence[str]) -> DictConfig:
    """What `extract.py` makes of the words."""
    return GlobalHydra.instance().hydra.compose_config(
        config_name="extract",
        overrides=list(words),
        run_mode=RunMode.RUN,
        from_shell=False,
        with_log_configuration=False,
    )


def _node(cfg: DictConfig, place: str) -> object:
    node = OmegaConf.select(cfg, place)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _changes(place: str, base: object, wanted: object) -> Iterator[str]:
    """The words that make the second of the first."""
    if not (isinstance(base, Mapping) and isinstance(wanted, Mapping)):
        if base != wanted:
            yield override(place, wanted)
        return
    for key, value in wanted.items():
        if key in base:
            yield from _changes(f"{place}.{key}", base[key], value)
        else:
            yield f"+{override(f'{place}.{key}', value)}"
    for key in base:
        if key not in wanted and base[key] is not None:  # of an earlier version, say
            yield f"~{place}.{key}"


def _flags() -> list[str]:
    """Where words come from that are not ours."""
    hydra = HydraConfig.get()
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    flags = [word for path in folders for word in ("--config-dir", path)]
    return flags + [word for word in hydra.overrides.hydra if _key(word) == "hydra.searchpath"]


def _split(cfg: DictConfig, missing: MissingFeatures) -> list[str]:
    """Only the split that is missing, where the run needs no other or has that already."""
    if not missing.split or not missing.path:
        return []
    alone = HydraConfig.get().job.config_name == "train" and not cfg.get("test", True)
    others = {"train": "test", "test": "train"}
    other = Path(missing.path).parent / others[missing.split] / "store.json"
    return [f"split={missing.split}"] if alone or other.is_file() else []
