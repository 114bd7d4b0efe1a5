"""Runs as their folders tell them, without torch: finished ones by results.json, and the others."""

import glob
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from diffdict.errors import UserError
from diffdict.results.tables import Row

RESULTS = "results.json"
RECORD = ".hydra"  # what Hydra keeps of each run: its config, and what was typed
FORMAT = 1  # of results.json


# a checkpoint that a training kept beside its last, or a folder of what it has drawn
STEP = re.compile(r"step=(\d+)\.ckpt|step-(\d+)")


class Finished(NamedTuple):
    """A run that has ended well."""

    folder: Path
    results: dict  # as KeepResults wrote them

    @property
    def task(self) -> str:
        """The word after task=."""
        return self.results["task"]

    @property
    def class_names(self) -> list[str]:
        """Of its pictures' labels; empty without labels."""
        return list(self.results["facts"].get("class_names") or [])

    @property
    def noise_levels(self) -> dict[int, float]:
        """The deviation of the noise at each timestep whose cells were measured."""
        return self.results["noise_levels"]


class Runs(NamedTuple):
    """What lies under the folders that were named."""

    finished: list[Finished]
    unfinished: list[Path]  # failed, stopped or still at work: no results.json


def checkpoint_step(path: str | Path | None) -> int | None:
    """Optimizer steps by the name of a checkpoint's file or samples; None where it says none."""
    match = None if path is None else STEP.fullmatch(Path(path).name)
    return int(match[1] or match[2]) if match else None


def read_results(folder: str | Path) -> dict | None:
    """What the run in this folder found; None where it has not ended."""
    path = Path(folder) / RESULTS
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text())
        version = results["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} was not written by diffdict, or was changed: delete it, and run that job again"
        ) from error
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version}, this diffdict reads {FORMAT}: run that job again, "
            f"or use the version that wrote it: {results.get('versions')}"
        )
    return results


def tables_beside(checkpoint: str | Path) -> dict[str, list[Row]]:
    """The tables of the run that left this checkpoint; none where they are not there or broken.

    Of a run of several dictionaries, the rows of the one whose own checkpoint it is.
    """
    folder, whose = Path(checkpoint).absolute().parent, None
    if folder.parent.name == "checkpoints":
        folder, whose = folder.parent.parent, folder.name
    tables: dict[str, list[Row]] = {}
    with suppress(UserError):
        tables = (read_results(folder) or {}).get("tables", {})
    if whose is None:
        return tables
    selection = {
        n: [row for row in rows if row.get("dictionary") == whose] for n, rows in tables.items()
    }
    return {n: [{**row, "dictionary": None} for row in rows] for n, rows in selection.items()}


def tables_of_run(run: Finished) -> dict[str, list[Row]]:
    """All tables of a finished run, which are not kept in memory."""
    return (read_results(run.folder) or {}).get("tables", {})


def find_runs(runs: str | Sequence[str]) -> Runs:
    """The runs in these folders, or in any folder that a pattern such as multirun/* names."""
    patterns = [runs] if isinstance(runs, str) else list(runs)
    folders: dict[Path, None] = {}  # each once, in order
    for pattern in patterns:
        path = os.path.expanduser(pattern)  # a folder may be named block=3,sae.scale=[2,4]
        places = [path] if Path(path).exists() else glob.glob(path, recursive=True)
        places.sort(key=_natural)
        here = [folder for place in places for folder in _runs_below(Path(place))]
        if not here:
            raise UserError(
                f"runs={pattern} names no run: it is a sweep's folder, several, or a pattern such "
                f"as 'multirun/2026-01-31/*', under which jobs have left their {RESULTS}"
            )
        folders |= dict.fromkeys(here)
    contents = {folder: _lean(read_results(folder)) for folder in folders}
    finished = [Finished(folder, results) for folder, results in contents.items() if results]
    others = [folder for folder, results in contents.items() if not results and _learns(folder)]
    return Runs(finished, others)


def _runs_below(place: Path) -> list[Path]:
    """This folder if it is a run's, else all runs under it."""
    place = place.parent if place.name == RESULTS else place
    folders = []
    for folder, inner, names in os.walk(place):
        if RESULTS in names or RECORD in inner:
            folders.append(Path(folder))
            inner.clear()
        inner[:] = sorted((name for name in inner if not name.startswith(".")), key=_natural)
    return folders


def _lean(results: dict | None) -> dict | None:
    """Without the tables: those of ten thousand latents in a hundred runs would fill the memory.

    Of the measured cells stays how noisy each timestep is.
    """
    if results is None:
        return None
    cells = results.get("tables", {}).get("cells", [])
    levels = {row["timestep"]: row["sigma"] for row in cells if row.get("sigma") is not None}
    lean = {key: value for key, value in results.items() if key != "tables"}
    return {**lean, "noise_levels": levels}


def _learns(folder: Path) -> bool:
    """Whether results were to come: not of extract.py, a report on other runs, or one picture."""
    try:
        door = OmegaConf.load(folder / RECORD / "hydra.yaml").hydra.job.config_name
        words = list(OmegaConf.load(folder / RECORD / "overrides.yaml"))
    except (OSError, AttributeError):  # killed before it could say
        return True
    return door != "extract" and not any(word.startswith(("runs=", "picture=")) for word in words)


def _natural(path: str) -> list[tuple[bool, int, str]]:
    """Job 10 after job 9."""
    parts = Path(path).parts
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
