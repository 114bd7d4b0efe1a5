"""The end of a run: results, reports and a table, or one line that says why it stopped."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Column, Table

from diffdict.errors import UserError, command, override
from diffdict.results.folders import find_runs
from diffdict.results.record import KeepsRun
from diffdict.run.advice import advising
from diffdict.run.build import Run, results_of

SCREEN = 60  # figures that are printed; more are in results.json alone


@contextmanager
def close(run: Run) -> Iterator[None]:
    """Ends a run with one table, or one line if it was stopped; finishes every logger."""
    before = set(os.environ)
    try:
        with advising(run.config):
            yield
        if HydraConfig.get().job.config_name != "extract":  # stores record their own progress
            results_of(run.trainer).write(run.trainer, run.model)
            _report(run)
        _show_what_is_left(run)
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
    """Calls reports on finished runs with this run alone."""
    for report in run.reports:
        report.collect(find_runs(run.trainer.default_root_dir)).log(run.trainer.loggers)


@rank_zero_only
def _show_what_is_left(run: Run) -> None:
    """Hands tables, figures and files to the loggers that take them."""
    for logger in run.trainer.loggers:
        if isinstance(logger, KeepsRun):
            logger.keep_run(run.trainer, run.model)


def _leave_ranks(run: Run, before: set[str]) -> None:
    """Removes what DDP left in this process, so that a sweep's next job starts its own ranks.

    Also keeps Lightning from killing this process when it sees that a rank has failed.
    """
    processes = getattr(run.trainer.strategy.launcher, "procs", [])
    ranks = list(processes)
    processes.clear()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for child in ranks:
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:  # it waits in a collective for a rank that has failed
            child.kill()
    for name in set(os.environ) - before:
        del os.environ[name]


def _way_on(run: Run) -> str:
    """How to resume an interrupted run."""
    last = getattr(run.trainer.checkpoint_callback, "last_model_path", "")
    if last:
        return f" Go on with the same command and {command(override('ckpt_path', last))}"
    return " Run the same command again: what is finished is kept."


@rank_zero_only
def _table(run: Run) -> None:
    """The last figures and the paths of what was written."""
    table = Table("", Column(overflow="fold"), show_header=False, box=None)
    figures = sorted(run.trainer.callback_metrics.items())
    for name, value in figures if len(figures) <= SCREEN else ():
        table.add_row(name, f"{float(value):.4g}")
    checkpoints = run.trainer.checkpoint_callback
    for name, path in (
        ("checkpoint", getattr(checkpoints, "last_model_path", "")),
        ("best", getattr(checkpoints, "best_model_path", "")),
        ("folder", run.trainer.default_root_dir),
    ):
        if path and Path(path).exists():
            table.add_row(name, str(path))
    Console(soft_wrap=True).print(table)
