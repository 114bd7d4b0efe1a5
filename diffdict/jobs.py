"""Runs and their folders, without torch: what is there is left, refused, or reported on."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.runs.folders import RECORD, RESULTS, find_runs, read_results

LAST = "last.ckpt"
MEASURED = ("probe_sweep",)  # tasks that learn nothing which could be kept: evaluate.py runs them


def record(mode: object, folder: str) -> str | None:
    """Where Hydra keeps what was typed; nowhere in a folder whose run keeps its own record."""
    sweeps = getattr(mode, "name", mode) == "MULTIRUN"
    kept = (RESULTS,) if sweeps else (RESULTS, LAST)
    others = any((Path(folder) / name).exists() for name in kept) or files.busy(folder)
    return None if others else RECORD


def fresh(mode: object, own: str, folder: str) -> str:
    """A folder named by the second, or its neighbour where another run began in that second too.

    Made where Hydra is in the mode that writes there, once a run: Hydra keeps what was answered.
    """
    if getattr(mode, "name", mode) != own or "--resolve" in sys.argv:  # which only looks
        return folder
    with suppress(OSError):  # Hydra is about to say it
        return str(files.fresh(folder))
    return folder


def group(mode: object, folder: str) -> str | None:
    """Under which name wandb shows a sweep's jobs together: the end of its folder's path."""
    sweeps = getattr(mode, "name", mode) == "MULTIRUN"
    return "/".join(Path(folder).parts[-3:]) if sweeps else None


OmegaConf.register_new_resolver("diffdict.record", record, replace=True)
OmegaConf.register_new_resolver("diffdict.group", group, replace=True)
OmegaConf.register_new_resolver("diffdict.fresh", fresh, use_cache=True, replace=True)


def of_one_run(
    folder: str | Path, door: str, overrides: Sequence[str], ckpt_path: str | None
) -> dict | None:
    """Nothing where the folder is free for this run, its results where they are there already.

    What another run has left is never written over.
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
    way_on = f"go on from it with ckpt_path={last}, or " if door == "train" else ""
    raise UserError(
        f"hydra.run.dir={folder} holds another run already ({RESULTS if results else LAST}), and "
        f"folders are of one run: {way_on}give another hydra.run.dir=…, or delete that one"
    )


def results_of(folder: str | Path, overrides: Sequence[str]) -> dict | None:
    """What this very job found when it ran before; the results of another one are refused."""
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
    """The number that the sweeper was given, or would have been."""
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
    """Nothing, or why a sweeper that chooses what comes next would wait for a number in vain."""
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


def subject(cfg: DictConfig) -> str:
    """The one thing that evaluate works on: ckpt_path, runs or task."""
    from hydra.core.hydra_config import HydraConfig

    choices = HydraConfig.get().runtime.choices
    said = {"ckpt_path": cfg.ckpt_path, "runs": cfg.runs, "task": choices.get("task")}
    given = [key for key, value in said.items() if value is not None]
    if len(given) != 1:
        came = " and ".join(f"{key}={said[key]}" for key in given) or "nothing"
        raise UserError(
            "evaluate works on exactly one of ckpt_path=outputs/…/last.ckpt, runs=multirun/… "
            f"(with report=heatmap, table or curve) and task={MEASURED[0]}; it got {came}"
        )
    if cfg.picture is not None and given != ["ckpt_path"]:
        raise UserError(
            f"picture={cfg.picture} shows what was learned, of one picture: it goes with "
            f"ckpt_path=outputs/…/last.ckpt, not with {given[0]}={said[given[0]]}"
        )
    typed = HydraConfig.get().overrides.task
    network = next((word for word in typed if word.startswith("backbone=")), None)
    if network is not None and given == ["ckpt_path"]:
        raise UserError(
            f"{network} would not be heard: what was learned of one network is evaluated through "
            "it alone, and the checkpoint brings it. Leave it out"
        )
    if cfg.names is not None and "dashboard" not in (cfg.report or {}):
        raise UserError(
            f"names={cfg.names} are shown by a page of concepts: report=dashboard names=FILE"
        )
    if given == ["task"] and said["task"] not in MEASURED:
        raise UserError(
            f"task={said['task']} is judged by what it has learned: give ckpt_path=outputs/…/"
            f"last.ckpt instead; on features alone evaluate runs task={MEASURED[0]}"
        )
    return given[0]


def report_on(cfg: DictConfig) -> None:
    """What `report` says of the runs that `runs` names; no checkpoint or picture is read."""
    from hydra.utils import get_object, instantiate

    nodes = [node for node in (cfg.report or {}).values() if node is not None]
    collecting = [hasattr(get_object(node._target_), "collect") for node in nodes]
    if not nodes or not all(collecting):
        said = "report=none" if not nodes else f"report={' and '.join(map(str, cfg.report))}"
        raise UserError(
            f"runs={cfg.runs} is shown by report=heatmap, table or curve, not by {said}: "
            "a single run is shown by ckpt_path="
        )
    runs = find_runs(OmegaConf.to_object(cfg.runs) if OmegaConf.is_config(cfg.runs) else cfg.runs)
    made = [instantiate(node, _convert_="all").collect(runs) for node in nodes]
    loggers = [instantiate(node) for node in (cfg.logger or {}).values() if node is not None]
    for one in made:
        one.log(loggers)
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()
