"""Changes a composed config before it runs: by a checkpoint, a labeller, noise, or a wrapper."""

import sys
from contextlib import suppress
from copy import copy
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from diffdict import checkpoints
from diffdict.backbones.denoiser import Denoiser
from diffdict.backbones.rcdm import RCDM
from diffdict.backbones.wrapper import wrapper_node
from diffdict.errors import UserError, command, override
from diffdict.results.inputs.published_weights import PUBLISHED, published_task
from diffdict.results.inputs.stored_noise import StoredNoise
from diffdict.results.naming import typed_keys

OBSERVERS = ("callbacks", "report", "logger")  # do not change what is learned
FEATURE_KEYS = ("timestep", "block", "noise")  # of the features that a labeller was trained on
# what evaluate.py takes from its own command line, never from the checkpoint's config
EVALUATION = (
    *("trainer", "callbacks", "report", "logger", "paths", "seed", "ckpt_path", "tags"),
    *("picture", "names"),
)


def with_labeller(cfg: DictConfig) -> DictConfig:
    """Gives an extraction the settings of its labeller, and prints what this changes.

    The labeller's backbone also draws the samples if it is a diffusion network, unless the one
    that was asked for is told something: then the labeller only looks.
    """
    if cfg.get("labeller") is None:
        return cfg
    several = OmegaConf.is_list(cfg.labeller)
    if several and "task=causality" not in HydraConfig.get().overrides.task:
        raise UserError(
            f"labeller={list(cfg.labeller)} names several, which task=causality alone compares: "
            "name one"
        )
    if several and len(set(cfg.labeller)) != 2:
        raise UserError(
            f"labeller={list(cfg.labeller)}: two judges are compared, labeller=[A,B], or one labels"
        )
    nodes = [_labeller_node(cfg, path) for path in (cfg.labeller if several else [cfg.labeller])]
    cfg.model.labeller = nodes if several else nodes[0]
    return cfg


def _labeller_node(cfg: DictConfig, checkpoint: str) -> dict:
    """What opens a labeller; the facts of one that looks through the network win."""
    config = OmegaConf.create(checkpoints.config_of(checkpoint))
    words = task_words(config.model._target_)
    if "deeplab" in words:
        return {
            "_target_": "diffdict.tasks.labeller.open_deeplab",
            "_partial_": True,
            "checkpoint": checkpoint,
            **{key: config.model[key] for key in ("depth", "width", "auxiliary")},
        }
    if "pixel_mlp" not in words:
        raise UserError(
            f"labeller={checkpoint} is no run of task=pixel_mlp or task=deeplab, which learn to "
            "label: python train.py task=pixel_mlp …"
        )
    config.paths = cfg.paths  # of this machine
    backbone = _plain(config.backbone)
    conditional = cfg.get("condition") is not None or issubclass(
        get_object(cfg.backbone._target_), RCDM
    )
    draws = issubclass(get_object(backbone["_target_"]), Denoiser) and not conditional
    facts = {key: _plain(config[key]) for key in FEATURE_KEYS}
    facts |= {"backbone": backbone} if draws else {}
    _say({key: (_plain(cfg[key]), fact) for key, fact in facts.items()})
    if not draws:
        network = short(_plain(cfg.backbone))
        print(f"The labeller looks through {short(backbone)}; what it labels is drawn by {network}")
    for key, fact in facts.items():
        cfg[key] = fact
    builder = {"_target_": "hydra.utils.instantiate", "_partial_": True, "_recursive_": False}
    return {
        "_target_": "diffdict.tasks.labeller.open_labeller",
        "_partial_": True,
        "checkpoint": checkpoint,
        "backbone": None if draws else {**builder, "config": backbone},
        **{key: facts[key] for key in FEATURE_KEYS},
        **{key: config.data.get(key) for key in ("dtype", "compute", "sae")},
        "vote": config.model.vote,
    }


def task_words(target: str) -> list[str]:
    """The names of the modules that define a task's class and its base classes."""
    return [kind.__module__.rpartition(".")[2] for kind in get_object(target).__mro__]


def with_stored_noise(cfg: DictConfig) -> DictConfig:
    """Gives samples that start from stored noise its settings, except those that were typed."""
    if cfg.get("start") is None:
        return cfg
    noise = StoredNoise(cfg.start)
    override_keys = typed_keys(HydraConfig.get().overrides.task)
    facts = {
        "sampler.respacing": noise.facts["respacing"],
        "sampler.clip_denoised": noise.facts["clip_denoised"],
        "data.number": noise.number,
        "data.shard_size": noise.shard_size,
    }
    facts = {key: fact for key, fact in facts.items() if key not in override_keys}
    for key, fact in facts.items():
        OmegaConf.update(cfg, key, fact)
    if facts:
        words = ", ".join(f"{key}={fact}" for key, fact in facts.items())
        Console(soft_wrap=True).print(f"Of the noise: {words}", markup=False, highlight=False)
    return cfg


def _plain(value: object) -> object:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _say(changes: dict[str, tuple[object, object]]) -> None:
    """Prints which settings the labeller changes."""
    differences = [
        f"{key} {short(fact)} instead of {short(setting)}"
        for key, (setting, fact) in changes.items()
        if setting != fact
    ]
    if differences:
        sentence = f"The labeller's facts win: {'; '.join(differences)}"
        Console(soft_wrap=True).print(sentence, markup=False, highlight=False)


def short(value: object) -> str:
    """A value in a few words: a backbone by its name and weights."""
    if isinstance(value, dict) and "name" in value:
        return f"{value['name']} ({value.get('checkpoint', 'no weights')})"
    return str(value)


def checkpoint_config(cfg: DictConfig) -> DictConfig:
    """The config that a checkpoint was trained with, overridden by the command line."""
    refuse_published(Path(cfg.ckpt_path))
    saved = checkpoints.config_of(cfg.ckpt_path)
    override_keys = typed_keys(HydraConfig.get().overrides.task)
    merged = OmegaConf.create(saved)
    keep_trained_values(merged, merged)
    for key in EVALUATION:
        merged[key] = cfg[key]
    if cfg.dataset is not None and "_target_" in cfg.dataset:
        merged.dataset = cfg.dataset  # replaced as a whole; the backbone stays
    else:
        added = cfg.dataset or {}  # +dataset.test_pictures=20
        merged.dataset = OmegaConf.merge(merged.dataset, added)
    for key in {*override_keys} & {"timestep", "block"}:
        merged[key] = cfg[key]
    for key in cfg.data:
        if not OmegaConf.is_missing(cfg.data, key):
            merged.data[key] = cfg.data[key]
    merged.model = OmegaConf.merge(merged.model, cfg.get("model") or {})  # +model.vote=soft
    return merged


def keep_trained_values(node: DictConfig, root: DictConfig) -> None:
    """Writes out what refers to the trainer, as model.anneal_steps=${trainer.max_steps} does.

    The trainer of an evaluation is another one.
    """
    for key, value in OmegaConf.to_container(node, resolve=False).items():
        if isinstance(value, dict):
            keep_trained_values(node[key], root)
        elif isinstance(value, str) and value.startswith("${trainer."):
            OmegaConf.update(node, key, node[key])


def refuse_published(path: Path) -> None:
    """Refuses published weights as ckpt_path: they hold no config and need task=."""
    weights = sorted(path.glob("model_*.pth")) if path.is_dir() else [path]
    task = published_task(weights[0]) if weights and weights[0].is_file() else None
    if task is None:
        return
    what = weights[0].parent if task == "pixel_mlp" else path
    where = " timestep=… block=…, as it was learned" if task == "pixel_mlp" else ""
    words = command(f"task={task}", override(f"model.{PUBLISHED[task]}", str(what)))
    raise UserError(
        f"ckpt_path={path} is no run of ours but what others have learned, and brings no config: "
        f"python evaluate.py {words} dataset=…{where}"
    )


def published(cfg: DictConfig) -> DictConfig:
    """The same config; warns if published classifiers get noise other than they had."""
    noisy = cfg.get("timestep") is not None and cfg.get("noise") is not None
    if cfg.model.get("classifiers") is not None and noisy and cfg.noise.get("device") != "cuda":
        print(
            "Published classifiers were learned with noise of a GPU's generator: "
            "noise.device=cuda gives them the same, the CPU's gives other numbers"
        )
    return cfg


def resumed(cfg: DictConfig) -> DictConfig:
    """Resumes a sweep's stopped job from its own last.ckpt, if that is of the same job."""
    hydra = HydraConfig.get()
    last = Path(hydra.runtime.output_dir) / "last.ckpt"
    if hydra.mode != RunMode.MULTIRUN or cfg.ckpt_path is not None or not last.exists():
        return cfg
    again = OmegaConf.merge(cfg, {"ckpt_path": str(last)})
    with suppress(UserError):  # a checkpoint that cannot be read: the job begins anew
        saved = OmegaConf.merge(checkpoints.config_of(last), {"ckpt_path": str(last)})
        if _of_training(saved) == _of_training(wrap_foreign_backbone(again)):
            print(f"Goes on from {last}", file=sys.stderr)
            sys.argv.append(override("ckpt_path", str(last)))  # for the ranks that this one starts
            return again
    return cfg


def _of_training(cfg: DictConfig) -> dict:
    """The parts of a config that change what is learned."""
    values = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in values.items() if key not in OBSERVERS}


def wrap_foreign_backbone(cfg: DictConfig) -> DictConfig:
    """Wraps a network from outside diffdict as a Backbone.

    If backbone._target_ was typed over another network, only typed keys of the node remain.
    """
    node = cfg.get("backbone")
    if node is None or node["_target_"].startswith("diffdict."):
        return cfg
    overrides = {word.lstrip("+").split("=")[0] for word in HydraConfig.get().overrides.task}
    node_keys = {place.split(".")[1] for place in overrides if place.startswith("backbone.")}
    keys = [key for key in node if "_target_" not in node_keys or key in node_keys]
    wrapped = copy(cfg)
    with open_dict(wrapped):
        wrapped.backbone = wrapper_node(OmegaConf.to_container(OmegaConf.masked_copy(node, keys)))
        if "_target_" in node_keys and "block" not in overrides:
            wrapped.block = "all"
    return wrapped
