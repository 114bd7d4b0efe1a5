"""Checks a config's root keys and trainer before anything is built."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from diffdict.checkpoints import KeptRun
from diffdict.errors import UserError, command, override

SEEDS = 2**32  # NumPy takes no larger ones
# set by what starts processes on several nodes
LAUNCHERS = ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE")
LEAST = {  # of the trainer's numbers: below these Lightning divides by zero, or does nothing
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}
READ_BY_DOORS = ("labeller", "ckpt_path", "optimized_metric", "test", "tags")
TRAINS = ("max_steps", "max_epochs", "limit_train_batches")  # with 0 nothing is trained


def validate_config(cfg: DictConfig, door: str, typed: Sequence[str] = ()) -> None:
    """Refuses the first value that has no meaning."""
    _read(cfg, typed)
    _seed("seed", cfg.seed)
    _where("timestep", cfg.get("timestep"), (int,), "50 or [50,150,250]")
    _where("block", cfg.get("block"), (int, str), "6, [5,6,7,8,12] or all")
    if cfg.get("noise") is not None:
        _noise(OmegaConf.to_container(cfg.noise, resolve=True))
    for owner in ("dataset", "backbone"):
        _name(f"{owner}.name", (cfg.get(owner) or {}).get("name"))
    for key, place in cfg.paths.items():
        if not str(place).strip():
            raise UserError(f"paths.{key} is empty: name a folder, such as paths.{key}={key}")
    tags, test = cfg.get("tags"), cfg.get("test", True)
    if tags is not None and not (OmegaConf.is_list(tags) and all(isinstance(t, str) for t in tags)):
        raise UserError(f"tags is a list of words, got {tags!r}: tags=[a,b]")
    if not isinstance(test, bool):
        raise UserError(f"test is true or false, got {test!r}: test=false leaves it out")
    if cfg.get("keep") is True and OmegaConf.select(cfg, "data.source") == "store":
        raise UserError(
            "keep=true leaves what a network sees, and data.source=store is stored already: "
            "keep=false, or data.source=live"
        )
    if cfg.get("trainer") is not None:
        _trainer(cfg.trainer, door)


def check_same_run(cfg: DictConfig, saved: KeptRun) -> None:
    """Refuses to resume with another optimizer, or beyond the end of training."""
    for key, reached in (("max_steps", saved.step), ("max_epochs", saved.epoch)):
        end = cfg.trainer.get(key)
        if end is not None and end != -1 and end < reached:
            raise UserError(
                f"ckpt_path={cfg.ckpt_path} has come to {reached}, beyond trainer.{key}={end}: "
                f"raise trainer.{key}, or measure it: "
                + command("python", "evaluate.py", override("ckpt_path", cfg.ckpt_path))
            )
    theirs = OmegaConf.select(OmegaConf.create(saved.config), "model.optimizer") or {}
    ours = OmegaConf.select(cfg, "model.optimizer") or {}
    for key in {**ours, **theirs}:
        if theirs.get(key) != ours.get(key):
            before = command(override(f"model.optimizer.{key}", theirs.get(key)))
            raise UserError(
                f"ckpt_path={cfg.ckpt_path} was learned with {before}, here it is "
                f"{ours.get(key)}: resume with {before}, or start anew without ckpt_path="
            )


def _read(cfg: DictConfig, words: Sequence[str]) -> None:
    """Refuses keys added at the root that nothing reads, such as a misspelt group."""
    text = OmegaConf.to_yaml(cfg)
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        reads = f"${{{key}" in text or key in READ_BY_DOORS
        if word.startswith("+") and key in cfg and not reads:
            raise UserError(
                f"{word} adds a key that nothing here reads: leave it out, or choose a group that "
                f"there is with {key}=… and no +"
            )


def check_networks_apart(choices: Mapping[str, str | None], folder: Path) -> None:
    """Refuses two networks whose YAMLs in `folder` are made of one file: Hydra mixes them up."""
    net, seer = choices.get("backbone"), choices.get("backbone@seer")
    if None in (net, seer) or net == seer:
        return
    shared = sorted(_files_of(net, folder) & _files_of(seer, folder))
    if shared:
        raise UserError(
            f"backbone={net} and backbone@seer={seer} are both made of {shared[0]}.yaml, and Hydra "
            f"mixes up what it reads twice: backbone@seer={net}, or a YAML of your own with all "
            "flags of one of them"
        )


def _files_of(name: str, folder: Path) -> set[str]:
    """A backbone's YAML, and those that its defaults name."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        return {name}
    listed = OmegaConf.to_container(OmegaConf.load(path), resolve=False).get("defaults", [])
    names = [one.partition("@")[0] for one in listed if isinstance(one, str)]
    return {name, *names} - {"_self_"}


def _seed(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < SEEDS:
        raise UserError(f"{name} is a whole number from 0 to {SEEDS - 1}, got {value}: {name}=0")


def _where(name: str, value: object, kinds: tuple[type, ...], example: str) -> None:
    """Checks a timestep or block: one or several; null if the network has none."""
    values = list(value) if OmegaConf.is_list(value) else [value]
    if twice := [one for one in values if values.count(one) > 1]:
        raise UserError(f"{name} names {twice[0]} twice, got {value}: each once")
    if values and (value is None or all(type(one) in kinds and one != "" for one in values)):
        return
    first = re.split(", | or ", example)[0]
    raise UserError(f"{name} is {example}, got {value!r}: {name}={first}")


def _noise(noise: Mapping) -> None:
    shared, draws = noise.get("shared", True), noise.get("draws", 1)
    if not isinstance(shared, bool):
        raise UserError(f"noise.shared is true or false, got {shared!r}: noise.shared=true")
    if type(draws) is not int or draws < 1:
        raise UserError(f"noise.draws is 1 or more, got {draws}: noise.draws=1")
    _seed("noise.seed", noise.get("seed", 0))
    device = noise.get("device", "cpu")
    if device not in ("cpu", "cuda"):
        raise UserError(f"noise.device is cpu or cuda, got {device!r}: noise.device=cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "noise.device=cuda draws noise by a GPU's generator, and torch finds none here: "
            "noise.device=cpu, which gives other numbers for the same seed"
        )


def _name(place: str, name: object) -> None:
    """Checks a name, which features and samples use as a folder's name."""
    if name is None:
        return
    text = str(name)
    if not text.strip() or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise UserError(f"{place} names a folder, got {name!r}: a word without / and .., {place}=a")


def _trainer(trainer: DictConfig, door: str) -> None:
    for key, least in LEAST.items():
        value = trainer.get(key)
        if isinstance(value, int | float) and value < least:
            raise UserError(
                f"trainer.{key} is at least {least}, got {value}: trainer.{key}={least}"
            )
    every = trainer.get("val_check_interval")
    if isinstance(every, int | float) and every <= 0:
        raise UserError(
            f"trainer.val_check_interval counts batches or is a share of an epoch, got {every}: "
            "null measures after each epoch, trainer.limit_val_batches=0 never"
        )
    for key in TRAINS if door == "train" else ():
        if trainer.get(key) == 0:
            raise UserError(
                f"trainer.{key}=0 learns nothing: give 1 or more; what is learned already is "
                "measured by python evaluate.py ckpt_path=…/last.ckpt"
            )
    exact = trainer.get("deterministic")
    if exact not in (None, True, False, "warn"):
        raise UserError(f"trainer.deterministic is true, false or warn, got {exact!r}")
    _machine(trainer)


def _machine(trainer: DictConfig) -> None:
    """Refuses missing devices, more processes than cores, and nodes that nothing starts."""
    accelerator = trainer.get("accelerator")
    if accelerator in ("gpu", "cuda") and not _has_gpu():
        raise UserError(
            f"trainer.accelerator={accelerator} needs a GPU, and torch finds none here: "
            "trainer=cpu, or trainer=ddp_sim for two ranks on the CPU"
        )
    if trainer.get("accelerator") in ("cpu", "auto") and not _has_gpu():
        cores = os.cpu_count() or 1
        devices = trainer.get("devices")
        if isinstance(devices, int) and devices > max(2, cores):  # two ranks are for trying
            raise UserError(
                f"trainer.devices={devices} on a CPU are as many processes, and this machine has "
                f"{cores} cores: trainer.devices={max(2, cores)} at most"
            )
        if str(trainer.get("precision")) in ("16", "16-mixed", "16-true"):
            raise UserError(
                f"trainer.precision={trainer.precision} is for GPUs: on a CPU say "
                "trainer.precision=32-true or bf16-mixed"
            )
    nodes = trainer.get("num_nodes")
    if isinstance(nodes, int) and nodes > 1 and not any(name in os.environ for name in LAUNCHERS):
        raise UserError(
            f"trainer.num_nodes={nodes} waits for other machines, and nothing here says where they "
            "are: start it with torchrun or under SLURM, or say trainer.num_nodes=1"
        )


def _has_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()
