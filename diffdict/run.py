"""From a composed config to a run: seed, data, model, callbacks, loggers, trainer; and its end."""

import errno
import inspect
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Column, Table

from diffdict import checkpoints, files
from diffdict.asked import check_asked, check_same_run
from diffdict.composed import adopted
from diffdict.errors import UserError
from diffdict.features.looking import open_picture, see
from diffdict.features.store import FeatureStore
from diffdict.make import arguments, make, settled
from diffdict.reports.runs.folders import find_runs, tables_beside
from diffdict.reports.runs.results import KeepResults, write_results
from diffdict.reports.runs.rows import print_rows
from diffdict.stopping import StopBetweenBatches

# Lightning asks for a loader's state_dict; ours keep their place in the data module
warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
warnings.filterwarnings("ignore", ".*LeafSpec.*")  # torch's deprecation inside Lightning
warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the EMA network
warnings.filterwarnings("ignore", ".*(Checkpoint|logs) directory .* exists.*")  # Hydra made it
warnings.filterwarnings("ignore", ".*dirpath has changed.*")  # evaluation has a folder of its own
warnings.filterwarnings("ignore", ".*Total length of .list. across ranks.*")  # no pictures for val

LOOKED_AT = ("image_size", "backbone_sha256")  # what one picture has to be like, and who looks
SCREEN = 60  # figures that are printed; more are in results.json alone


class Run(NamedTuple):
    """What a door opens on."""

    data: pl.LightningDataModule
    model: pl.LightningModule
    trainer: pl.Trainer
    reports: list  # on finished runs: they get this one when it has ended

    def metric(self, name: str | None) -> float | None:
        """The number that a sweeper minimises or maximises."""
        if name is None:
            return None
        known = _kept(self.trainer).figures(self.trainer)
        if name not in known:
            raise UserError(
                f"optimized_metric={name} was not logged; logged: {', '.join(sorted(known))}"
            )
        return known[name]


def build(cfg: DictConfig) -> Run:
    """Everything that the config names, made."""
    cfg, door = adopted(cfg), HydraConfig.get().job.config_name
    check_asked(cfg, door, HydraConfig.get().overrides.task)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    os.environ["DIFFDICT_CHECKPOINTS"] = str(cfg.paths.checkpoints)  # where weights are looked up
    data = make(settled(cfg.data))
    facts = data.facts
    model = make(cfg.model, facts)
    made = [make(node) for group in ("callbacks", "report") for node in _each(cfg, group)]
    callbacks = [one for one in made if isinstance(one, pl.Callback)]
    own = [KeepConfig(cfg, facts), KeepResults(**_about(cfg), facts=facts)]
    own += [StopBetweenBatches(), checkpoints.ExactCounters()]
    loggers = [make(node) for node in _each(cfg, "logger")]
    parts = {"callbacks": [*callbacks, *own], "logger": loggers or False}
    parts["plugins"] = [checkpoints.WholeCheckpoints()]
    trainer = make(cfg.trainer, parts)
    if cfg.get("ckpt_path") is not None:
        checkpoints.check_resumable(cfg.ckpt_path, model)
        if door == "train":
            check_same_run(cfg, checkpoints.kept_run(cfg.ckpt_path))
    if door == "train":
        _keep_what_was_logged(Path(HydraConfig.get().runtime.output_dir))
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    return Run(data, model, trainer, [one for one in made if one not in callbacks])


@rank_zero_only
def _keep_what_was_logged(folder: Path) -> None:
    """A run that goes on in its own folder: the logger would write over what was logged before."""
    files.writable_folder(folder)
    for path in folder.glob("*.tmp"):  # of a sitting that was killed while it wrote
        files.remove(path)
    for name in ("metrics", "results"):
        for path in folder.glob(f"{name}.*"):
            path.rename(files.unused(path.with_stem(f"{name}-1")))


def _each(cfg: DictConfig, group: str) -> list[DictConfig]:
    return [node for node in (cfg.get(group) or {}).values() if node is not None]


def _about(cfg: DictConfig) -> dict:
    """What a run's results say of it: what was typed, and the choice that came of it."""
    hydra = HydraConfig.get()
    return {
        "door": hydra.job.config_name,
        "task": cfg.model._target_.split(".")[-2],  # the word typed is the file
        "overrides": list(hydra.overrides.task),
        "choices": {k: word for k, word in hydra.runtime.choices.items() if word and "/" not in k},
        "config": _choice(cfg),
    }


def _choice(node: DictConfig) -> dict:
    """All values of a config, resolved; what stands twice is told where it stands itself."""
    told = {}
    for key in node:
        if OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if not OmegaConf.is_config(value):
            told[key] = value
        elif not OmegaConf.is_interpolation(node, key):
            whole = OmegaConf.is_dict(value)
            told[key] = _choice(value) if whole else OmegaConf.to_container(value, resolve=True)
    return told


def _kept(trainer: pl.Trainer) -> KeepResults:
    return next(c for c in trainer.callbacks if isinstance(c, KeepResults))


class KeepConfig(pl.Callback):
    """The config travels in the checkpoint, unresolved: a new dataset still reaches data.

    With it goes what the data told the model, which can then be made again without any data.
    """

    def __init__(self, cfg: DictConfig, facts: dict) -> None:
        self.config = OmegaConf.to_container(cfg, resolve=False)
        told = {*arguments(cfg.model._target_), *LOOKED_AT}
        self.facts = {key: value for key, value in facts.items() if key in told}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        checkpoint["config"] = self.config
        checkpoint["facts"] = self.facts


def look(cfg: DictConfig) -> None:
    """`picture=PATH`: what a trained module says of one picture, without any data set."""
    check_asked(cfg, "evaluate")
    os.environ["DIFFDICT_CHECKPOINTS"] = str(cfg.paths.checkpoints)
    if not hasattr(get_object(cfg.model._target_), "look"):
        raise UserError(
            f"picture= shows what was learned about pictures, ckpt_path={cfg.ckpt_path} is a run "
            f"of task={_about(cfg)['task']}: give one of task=sae, task=pixel_mlp or task=deeplab"
        )
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    facts, began = checkpoints.facts_of(cfg.ckpt_path), time.perf_counter()
    image = open_picture(cfg.picture, facts["image_size"])
    takes = inspect.signature(get_object(cfg.model._target_).look).parameters
    net = instantiate(cfg.backbone) if "maps" in takes else None  # some learn from pictures alone
    model = checkpoints.restore(cfg.ckpt_path, make(cfg.model, facts)).eval()
    cpu = cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    device = torch.device("cpu" if cpu else "cuda")
    folder = files.unused(Path(HydraConfig.get().runtime.output_dir) / "picture")
    known = {"tables": tables_beside(cfg.ckpt_path)}  # for what says more after a test
    if net is not None:
        where = cfg.timestep, cfg.block, cfg.noise, facts.get("backbone_sha256")
        known["maps"] = see(image, net, *where, device)
    known = {key: value for key, value in known.items() if key in takes}
    rows = model.to(device).look(image.to(device), folder=folder, **known)
    write_results(folder, _about(cfg), {"picture": rows}, time.perf_counter() - began)
    print_rows(rows)
    print(f"picture: {folder}")


@contextmanager
def close(run: Run) -> Iterator[None]:
    """The end of a run, whichever it is: said in one line or one table, every logger finished."""
    before = set(os.environ)
    try:
        yield
        if HydraConfig.get().job.config_name != "extract":  # its stores say themselves what is done
            _kept(run.trainer).write(run.trainer, run.model)
            _report(run)
        _table(run)
    except SIGTERMException:
        if run.trainer.is_global_zero:
            print(f"\nStopped by SIGTERM.{_way_on(run)}", file=sys.stderr)
        sys.exit(143)
    except SystemExit as stop:
        if run.trainer.interrupted and stop.code == 1:  # how Lightning ends after Ctrl-C
            if not run.trainer.is_global_zero:
                sys.exit(130)
            raise KeyboardInterrupt(f"Stopped.{_way_on(run)}") from None
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"The disk under {error.filename or run.trainer.default_root_dir} is full: "
            "make room, then run the same command again."
        ) from error
    finally:
        _leave_ranks(run, before)
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish()


@rank_zero_only
def _report(run: Run) -> None:
    """This run alone, by reports that collect several and by loggers that show what it left."""
    for report in run.reports:
        report.collect(find_runs(run.trainer.default_root_dir)).log(run.trainer.loggers)
    for logger in run.trainer.loggers:
        if hasattr(logger, "keep_run"):
            logger.keep_run(run.trainer, run.model)


def _leave_ranks(run: Run, before: set[str]) -> None:
    """What DDP left in this process goes, so that a sweep's next job starts its own ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for child in getattr(run.trainer.strategy.launcher, "procs", []):
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:  # it waits in a collective for a rank that has failed
            child.kill()
    for name in set(os.environ) - before:
        del os.environ[name]


def _way_on(run: Run) -> str:
    """How an interrupted run goes on."""
    last = getattr(run.trainer.checkpoint_callback, "last_model_path", "")
    if last:
        return f" Go on with the same command and ckpt_path={last}"
    return " Run the same command again: what is finished is kept."


@rank_zero_only
def _table(run: Run) -> None:
    """The last figures and the paths of what was written."""
    table = Table("", Column(overflow="fold"), show_header=False, box=None)
    figures = sorted(run.trainer.callback_metrics.items())
    for name, value in figures if len(figures) <= SCREEN else ():
        table.add_row(name, f"{float(value):.4g}")
    kept = run.trainer.checkpoint_callback
    for name, path in (
        ("checkpoint", getattr(kept, "last_model_path", "")),
        ("best", getattr(kept, "best_model_path", "")),
        ("folder", run.trainer.default_root_dir),
    ):
        if path and Path(path).exists():
            table.add_row(name, str(path))
    Console(soft_wrap=True).print(table)


def info(path: Path) -> str:
    """What is in a feature store or a checkpoint, in one screen."""
    if path.is_dir():
        return FeatureStore.open(path).describe()
    return checkpoints.describe(path)


def verify(path: Path) -> str:
    """Every bit of a store or a checkpoint against its checksums."""
    if path.is_dir():
        return FeatureStore.open(path).verify()
    return checkpoints.verify(path)
