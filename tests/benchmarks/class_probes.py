"""Closed-form probes of whole pictures against the trained grid: how fast, and do they rank alike?

task=probe_sweep target=presence in one pass beside task=linear_probe in 15 epochs, each a command
of its own, on drawn faces through the packaged network; processor seconds, start-up included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from scipy.stats import spearmanr

ROOT = Path(__file__).parents[2]
FASTER, ALIKE = 10, 0.95  # what is to be shown


class Measured(NamedTuple):
    """What a command took, and the average precision of each of its cells."""

    seconds: float
    cells: dict[tuple[int, int], float]


def measured(door: str, words: list[str], folder: Path) -> Measured:
    """A command on its own core."""
    words = [*words, "trainer=cpu", "callbacks.progress=null", f"hydra.run.dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder.with_suffix(".log"), "w") as log:
        child = subprocess.Popen(
            [sys.executable, str(ROOT / f"{door}.py"), *words],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, folder.with_suffix(".log").read_text()
    rows = json.loads((folder / "results.json").read_text())["tables"]["cells"]
    cells = {(row["timestep"], row["block"]): row["average_precision"] for row in rows}
    return Measured(usage.ru_utime + usage.ru_stime, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--timesteps", default="[10,150,400]")
    asked = parser.parse_args()
    pictures = [
        *("target=presence", "noise.shared=false", f"timestep={asked.timesteps}", "block=all"),
        *(f"dataset.train_pictures={asked.pictures}", f"dataset.test_pictures={asked.pictures}"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        closed = measured("evaluate", ["task=probe_sweep", *pictures], Path(folder, "closed"))
        grid = ["task=linear_probe", f"trainer.max_epochs={asked.epochs}", *pictures]
        trained = measured("train", grid, Path(folder, "trained"))
    places = sorted(closed.cells)
    ours, theirs = ([one.cells[place] for place in places] for one in (closed, trained))
    rank = spearmanr(ours, theirs).statistic
    print(f"{len(places)} cells, rank correlation {rank:.3f} (Spearman, goal {ALIKE})")
    print(
        f"closed form {trained.seconds / closed.seconds:.1f}× the trained grid of {asked.epochs} "
        f"epochs (goal {FASTER}×)"
    )
    for name, one in (("closed form", closed), ("training", trained)):
        place = max(one.cells, key=one.cells.get)
        print(f"best by {name}: timestep {place[0]} block {place[1]}, {one.cells[place]:.3f}")


if __name__ == "__main__":
    main()
