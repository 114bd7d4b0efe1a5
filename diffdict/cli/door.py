"""Turns a function of a composed config into a command: Hydra in front, mistakes in one line."""

import atexit
import functools
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, NoReturn

from omegaconf import DictConfig

from diffdict import files
from diffdict.cli import run_folder
from diffdict.cli.mistakes import find_mistake
from diffdict.cli.paths import at_home, check_paths, folder
from diffdict.cli.task_doors import check_task_door
from diffdict.errors import UserError, one_line


def door(task: Callable[[DictConfig], float | None]) -> Callable[[], None]:
    """The command that composes a config with Hydra and calls `task` with it, or sweeps it."""
    import hydra  # not for `info` and `verify`, which need no config

    parent, script = os.getpid(), os.path.abspath(sys.argv[0])
    failures, started = [], []

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        started.append(_this_job())
        run_folder.check_study(cfg.get("optimized_metric"))
        try:
            check_paths(cfg)
            with _own_folder():
                results = _found_before(task.__name__, cfg.get("ckpt_path"))
                if results is not None:
                    return run_folder.optimized(results, cfg.optimized_metric)
                _point_children_at_this_job(script)
                return task(cfg)
        except Exception as error:
            mistake, is_parent = find_mistake(error), os.getpid() == parent
            if mistake is None and not (is_parent and started[-1].swept):
                raise
            message = traceback.format_exc() if mistake is None else f"{task.__name__}: {mistake}"
            print(message, file=sys.stderr, flush=True)
            if not is_parent:  # a launcher's worker: whoever waits for it has to know
                raise UserError(mistake) from None
            failures.append(Failure(started[-1], 1 if mistake is None else 2))
            return None  # a sweep goes on with its next job

    def open_door() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises; we print the message
        try:
            sys.argv[1:] = _expanded(task.__name__, _flags_first(sys.argv[1:]))
            _leave_folder_to_first_rank()
            hydra.main(version_base="1.3", config_path=folder("conf"), config_name=task.__name__)(
                job
            )()
        except (KeyboardInterrupt, BrokenPipeError) as stop:
            sys.exit(_exit_code(stop))
        except Exception as error:
            mistake = find_mistake(error)
            if mistake is None and isinstance(error, OSError) and not started:
                mistake = (
                    f"The output folder cannot be made: {error.strerror} ({error.filename}). "
                    "Choose another with hydra.run.dir=… or hydra.sweep.dir=…"
                )
            if mistake is None and isinstance(error, ValueError) and not started:
                problem = f"{' '.join(sys.argv[1:])} cannot be read ({one_line(error)})"
                mistake = f"{problem}: each word is KEY=VALUE, GROUP=OPTION or ~KEY"
            if mistake is None:
                raise
            print(f"{task.__name__}: {mistake}", file=sys.stderr)
            sys.exit(2)
        if failures:
            if len(started) > 1:
                print(f"{task.__name__}: {_failed(failures, started)}", file=sys.stderr)
            sys.exit(min(failure.code for failure in failures))

    return open_door


def _expanded(door: str, words: list[str]) -> list[str]:
    """The words of a task that this door runs, ~/ written out; of `checkpoints=` its sweep's."""
    words = [at_home(word) for word in words]
    check_task_door(door, words)
    if door == "train":
        return words
    from diffdict.cli.checkpoint_sweep import sweep_over_checkpoints  # needs Hydra

    return sweep_over_checkpoints(door, words)


def _exit_code(stop: BaseException) -> int:
    """Of a command that was stopped, by Ctrl-C or by `| head`, which has seen enough."""
    if isinstance(stop, BrokenPipeError):  # what is still to be said goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    print(f"\n{one_line(stop)}", file=sys.stderr)
    return 130


class Job(NamedTuple):
    """One run of a command: the only one, or one of a sweep."""

    folder: str
    words: list[str]  # overrides, typed or chosen by the sweep
    swept: bool


class Failure(NamedTuple):
    """A job that failed, and its exit code: 1 for a bug, 2 for a user's mistake."""

    job: Job
    code: int


def _this_job() -> Job:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    cfg = HydraConfig.get()
    return Job(cfg.runtime.output_dir, list(cfg.overrides.task), cfg.mode == RunMode.MULTIRUN)


def _failed(failures: list[Failure], started: list[Job]) -> str:
    """Names the failed jobs of a sweep by their folders and by the overrides that differ."""
    shared = set.intersection(*(set(job.words) for job in started))
    failed = [
        " ".join([job.folder, *(word for word in job.words if word not in shared)])
        for job, _ in failures
    ]
    return (
        f"{len(failures)} of {len(started)} jobs failed ({'; '.join(failed)}): the same command "
        "with the same hydra.sweep.dir= runs what has no results"
    )


def _flags_first(words: list[str]) -> list[str]:
    """Moves flags to the front, since words after a flag would be lost; refuses unknown flags."""
    from hydra._internal.utils import get_args_parser

    def refuse(what: str) -> NoReturn:
        raise UserError(f"{what}: --hydra-help lists the flags")

    parser = get_args_parser()
    parser.error = refuse  # not eight lines of usage
    arguments, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        raise UserError(
            f"{unknown[0]} is no flag: settings are words without dashes, such as seed=0, which "
            "--help lists, and --hydra-help the flags"
        )
    if arguments.info:  # takes the word behind it for its own
        return words
    return [word for word in words if word not in arguments.overrides] + arguments.overrides


def _leave_folder_to_first_rank() -> None:
    """Gives ranks but the first, if torchrun or SLURM started them, a temporary output folder."""
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) > 0:
        scratch = tempfile.mkdtemp(prefix="diffdict-rank-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={scratch}", "hydra.output_subdir=null"]


def _output_folder() -> str:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get().runtime.output_dir


def _is_first() -> bool:
    """Whether this is the first rank on this machine, which locks and checks the run's folder."""
    return not int(os.environ.get("LOCAL_RANK") or 0)


def _own_folder() -> AbstractContextManager[None]:
    """Locks the output folder for this run; ranks that Lightning starts share it."""
    return files.exclusive_folder(_output_folder()) if _is_first() else nullcontext()


def _found_before(door: str, ckpt_path: str | None) -> dict | None:
    """The results of the same job, if its folder holds them already, which is then printed."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    cfg, folder = HydraConfig.get(), _output_folder()
    results = None
    if cfg.mode == RunMode.MULTIRUN:
        results = run_folder.finished_results(folder, cfg.overrides.task)
    elif door != "extract" and _is_first():
        results = run_folder.check_run_folder(folder, door, cfg.overrides.task, ckpt_path)
    if results is not None:
        print(f"{door}: {folder} has its results: left as it is", file=sys.stderr)
    return results


def _point_children_at_this_job(script: str) -> None:
    """Sets sys.argv, which DDP's children run again, to this job and not to the whole sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import read_write

    cfg = HydraConfig.get()
    with read_write(cfg):
        cfg.run.dir = cfg.runtime.output_dir
    if cfg.mode == RunMode.MULTIRUN:
        sys.argv = [script, *cfg.overrides.task, "hydra.mode=RUN"]
        sys.modules["__main__"].__spec__ = None  # a launcher's worker is a module, the child is not
