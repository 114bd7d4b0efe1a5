"""From a composed config to a run: seed, data, model, callbacks, loggers, trainer."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from diffdict import checkpoints, files
from diffdict.errors import UserError
from diffdict.results.naming import labels_of_run
from diffdict.results.record import KeepResults
from diffdict.run.advice import advised, advising
from diffdict.run.instantiate import arguments, drop_unset, make
from diffdict.run.interruption.counters import ExactCounters
from diffdict.run.interruption.stop import StopBetweenBatches
from diffdict.run.interruption.whole import WholeCheckpoints
from diffdict.run.rewrite import wrap_foreign_backbone
from diffdict.run.validate import check_networks_apart, check_same_run, validate_config

# Lightning asks for a loader's state_dict; ours keep their place in the data module
warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
warnings.filterwarnings("ignore", ".*LeafSpec.*")  # torch's deprecation inside Lightning
warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the EMA network
warnings.filterwarnings("ignore", ".*(Checkpoint|logs) directory .* exists.*")  # Hydra made it
warnings.filterwarnings("ignore", ".*dirpath has changed.*")  # evaluation has a folder of its own
warnings.filterwarnings("ignore", ".*Total length of .list. across ranks.*")  # no pictures for val

PICTURE_FACTS = ("image_size", "backbone_sha256")  # what `picture=PATH` needs to know


class Run(NamedTuple):
    """What a run is made of."""

    data: pl.LightningDataModule
    model: pl.LightningModule
    trainer: pl.Trainer
    reports: list  # on finished runs: called when this one has ended
    config: DictConfig  # as composed

    def metric(self, name: str | None) -> float | None:
        """The number that a sweeper minimises or maximises."""
        if name is None:
            return None
        figures = results_of(self.trainer).figures(self.trainer)
        if name not in figures:
            raise UserError(
                f"optimized_metric={name} was not logged; logged: {', '.join(sorted(figures))}"
            )
        return figures[name]


def build(cfg: DictConfig) -> Run:
    """Builds everything that the config names."""
    with advising(cfg):
        return _build(cfg)


def _build(cfg: DictConfig) -> Run:
    original = cfg
    cfg, door = wrap_foreign_backbone(cfg), HydraConfig.get().job.config_name
    validate_config(cfg, door, HydraConfig.get().overrides.task)
    runtime = HydraConfig.get().runtime
    sources = [one.path for one in runtime.config_sources if one.provider == "main"]
    check_networks_apart(runtime.choices, Path(sources[0]) / "backbone")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    os.environ["DIFFDICT_CHECKPOINTS"] = str(cfg.paths.checkpoints)  # where weights are looked up
    data = make(drop_unset(cfg.data))
    if door == "train" and cfg.test:
        _open_test(data, original)
    facts = data.facts
    model = make(cfg.model, facts)
    nodes = [*_each(cfg, "callbacks"), *_each(cfg, "report")]
    callbacks_and_reports = [make(node) for node in nodes]
    callbacks = [one for one in callbacks_and_reports if isinstance(one, pl.Callback)]
    ours = [KeepConfig(cfg, facts), KeepResults(**describe_run(cfg), facts=facts)]
    ours += [StopBetweenBatches(), ExactCounters()]
    loggers = _loggers(cfg)
    parts = {"callbacks": [*callbacks, *ours], "logger": loggers or False}
    parts["plugins"] = [WholeCheckpoints()]
    trainer = make(cfg.trainer, parts)
    if cfg.get("ckpt_path") is not None:
        checkpoints.check_resumable(cfg.ckpt_path, model)
        if door == "train":
            check_same_run(cfg, checkpoints.kept_run(cfg.ckpt_path))
    if door == "train":
        _keep_what_was_logged(Path(HydraConfig.get().runtime.output_dir))
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    reports = [one for one in callbacks_and_reports if one not in callbacks]
    return Run(data, model, trainer, reports, original)


def _open_test(data: pl.LightningDataModule, cfg: DictConfig) -> None:
    """Opens the test data before the training, so that missing features are reported at once.

    If the training's own data is missing too, that is reported instead.
    """
    try:
        data.setup("test")
    except UserError as missing:
        _ = data.facts
        message = f"{advised(missing, cfg)} — or leave the test out: test=false"
        raise UserError(message) from missing


@rank_zero_only
def _keep_what_was_logged(folder: Path) -> None:
    """Renames earlier logs and results in the folder, which the logger would overwrite."""
    files.writable_folder(folder)
    for path in folder.glob("*.tmp"):  # of a sitting that was killed while it wrote
        files.remove(path)
    for name in ("metrics", "results"):
        for path in folder.glob(f"{name}.*"):
            path.rename(files.unused(path.with_stem(f"{name}-1")))


def _loggers(cfg: DictConfig) -> list[pl.loggers.Logger]:
    """The config's loggers; those that name runs get this run's labels."""
    if not (nodes := _each(cfg, "logger")):
        return []
    about = {**describe_run(cfg), "config": OmegaConf.to_container(cfg, resolve=True)}
    labels = labels_of_run(about, HydraConfig.get().runtime.output_dir)
    return [make(node, {"labels": labels}) for node in nodes]


def _each(cfg: DictConfig, group: str) -> list[DictConfig]:
    return [node for node in (cfg.get(group) or {}).values() if node is not None]


class KeepConfig(pl.Callback):
    """Saves the config in the checkpoint, unresolved, so that a new dataset still reaches `data`.

    Also saves the facts that the model took from the data, so that it can be built without data.
    """

    def __init__(self, cfg: DictConfig, facts: dict) -> None:
        self.config = OmegaConf.to_container(cfg, resolve=False)
        keys = {*arguments(cfg.model._target_), *PICTURE_FACTS}
        self.facts = {key: value for key, value in facts.items() if key in keys}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        checkpoint["config"] = self.config
        checkpoint["facts"] = self.facts


def describe_run(cfg: DictConfig) -> dict:
    """The record of a run in its results: its overrides, and the config that they gave."""
    hydra = HydraConfig.get()
    return {
        "door": hydra.job.config_name,
        "task": cfg.model._target_.split(".")[-2],  # the word typed is the file
        "overrides": list(hydra.overrides.task),
        "choices": {k: word for k, word in hydra.runtime.choices.items() if word and "/" not in k},
        "config": _resolved_choice(cfg),
    }


def _resolved_choice(node: DictConfig) -> dict:
    """All values of a config, resolved; nodes that only refer to another node are left out."""
    values = {}
    for key in node:
        if OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if not OmegaConf.is_config(value):
            values[key] = value
        elif not OmegaConf.is_interpolation(node, key):
            whole = OmegaConf.is_dict(value)
            values[key] = (
                _resolved_choice(value) if whole else OmegaConf.to_container(value, resolve=True)
            )
    return values


def results_of(trainer: pl.Trainer) -> KeepResults:
    """The callback that writes this run's results."""
    return next(c for c in trainer.callbacks if isinstance(c, KeepResults))
