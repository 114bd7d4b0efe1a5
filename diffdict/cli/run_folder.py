"""Decides whether a run folder is reused, refused or free; runs without torch."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf

from diffdict import files
from diffdict.errors import UserError, command, override
from diffdict.results.folders import RECORD, RESULTS, read_results
from diffdict.results.naming import folder_group

LAST = "last.ckpt"


def record(mode: object, folder: str) -> str | None:
    """Hydra's subfolder for the overrides; None in a folder that belongs to an earlier run."""
    sweeps = getattr(mode, "name", mode) == "MULTIRUN"
    marks = (RESULTS,) if sweeps else (RESULTS, LAST)
    others = any((Path(folder) / name).exists() for name in marks) or files.busy(folder)
    return None if others else RECORD


def fresh_run_folder(mode: object, writing_mode: str, folder: str) -> str:
    """A new folder named by the time, with -2 added if another run started in the same second.

    Created only in Hydra's mode that writes there, and once a run, since Hydra caches the answer.
    """
    if getattr(mode, "name", mode) != writing_mode or "--resolve" in sys.argv:  # which only looks
        return folder
    with suppress(OSError):  # Hydra is about to say it
        return str(files.fresh(folder))
    return folder


def group(mode: object, folder: str) -> str | None:
    """The name under which wandb groups a sweep's jobs: the end of the folder's path."""
    return folder_group(folder) if getattr(mode, "name", mode) == "MULTIRUN" else None


OmegaConf.register_new_resolver("diffdict.record", record, replace=True)
OmegaConf.register_new_resolver("diffdict.group", group, replace=True)
OmegaConf.register_new_resolver("diffdict.fresh", fresh_run_folder, use_cache=True, replace=True)


def check_run_folder(
    folder: str | Path, door: str, overrides: Sequence[str], ckpt_path: str | None
) -> dict | None:
    """None if the folder is free for this run; its results if the same run has finished there.

    Refuses a folder that holds another run.
    """
    folder = Path(folder)
    results, last = read_results(folder), folder / LAST
    goes_on = door == "train" and ckpt_path is not None
    if goes_on and Path(ckpt_path).resolve().is_relative_to(folder.resolve()):
        return None
    same = results is not None and results["door"] == door
    if same and (door != "train" or sorted(results["overrides"]) == sorted(overrides)):
        return results if door == "train" else None
    if results is None and not last.exists():
        return None
    last_word = command(override("ckpt_path", str(last)))
    way_on = f"go on from it with {last_word}, or " if door == "train" else ""
    raise UserError(
        f"hydra.run.dir={folder} holds another run already ({RESULTS if results else LAST}), and "
        f"folders are of one run: {way_on}give another hydra.run.dir=…, or delete that one"
    )


def finished_results(folder: str | Path, overrides: Sequence[str]) -> dict | None:
    """The results of the same job, if it finished before; refuses those of another job."""
    results = read_results(folder)
    if results is None or sorted(results["overrides"]) == sorted(overrides):
        return results
    theirs, ours = set(results["overrides"]), set(overrides)
    raise UserError(
        f"{folder} holds the results of another job (there {_spoken(theirs - ours)}, here "
        f"{_spoken(ours - theirs)}): nothing was done. Give another hydra.sweep.dir=, or let "
        f"folders be named by what is swept: hydra.sweep.subdir='${{hydra.job.override_dirname}}'"
    )


def optimized(results: dict, name: str | None) -> float | None:
    """The metric of a finished job that the sweeper optimises."""
    if name is None:
        return None
    metrics = results["metrics"]
    if name not in metrics:
        raise UserError(
            f"optimized_metric={name} is not among the job's results, which are there already: "
            f"{', '.join(sorted(metrics))}"
        )
    return float("nan") if metrics[name] is None else metrics[name]


def _spoken(overrides: set[str]) -> str:
    return " ".join(sorted(overrides)) or "nothing instead"


def check_study(optimized_metric: str | None) -> None:
    """Refuses a sweeper that optimises a number which the runs do not return."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    direction = hydra.sweeper.get("direction")
    if hydra.mode != RunMode.MULTIRUN or direction is None:
        return
    if optimized_metric is None:
        raise UserError(
            f"hydra/sweeper={hydra.runtime.choices['hydra/sweeper']} chooses by a number that each "
            "run ends with: say which, optimized_metric=test/fvu, and hydra.sweeper.direction="
        )
    if OmegaConf.is_list(direction):
        raise UserError(
            f"hydra.sweeper.direction={list(direction)} asks for several numbers, a run gives one "
            f"(optimized_metric={optimized_metric}): hydra.sweeper.direction=minimize or maximize"
        )
