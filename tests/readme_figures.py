"""The figures of the README's table measured anew, beside what it says: `make results`.

Those that need nothing but the package: drawn faces and its small model, each over several seeds.
Runs that are whole are left, so that the same command goes on after a stop. A figure has moved
where it lies more than two deviations from the README's, its own or the README's, the larger one.

    python tests/readme_figures.py [--seeds 0 1 2] [--only concepts] [--into outputs/results]
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PREPARATIONS = {  # the commands before, which no seed changes
    "concepts": ("extract.py dataset.name=toy_faces_500 dataset.train_pictures=500 block=3",),
    "segmentation": (
        "extract.py timestep=[10,50] block=[2,3,4,5,6] dataset.test_pictures=200",
        "extract.py timestep=50 block=3 dataset.test_pictures=200",
    ),
}
RUNS = {  # a name, and the command that measures
    "concepts": "train.py experiment=demo",
    "segmentation": "train.py task=pixel_mlp_modern timestep=[10,50] block=[2,3,4,5,6] "
    "dataset.test_pictures=200",
    "colour and position": "train.py task=pixel_mlp_modern backbone=pixels data.source=live "
    "dataset.test_pictures=200",
}


class Figure(NamedTuple):
    """A number of the README, and where a run has it."""

    said: str
    run: str
    metric: str
    mean: float
    deviation: float = 0.0


FIGURES = (
    Figure("best latent of a class, IoU", "concepts", "test/iou", 0.252),
    Figure("four latents together, IoU", "concepts", "test/iou_union", 0.313),
    Figure("as many random directions, IoU", "concepts", "test/iou_random", 0.170),
    Figure("best raw channel, IoU", "concepts", "test/iou_channels", 0.205),
    Figure("twenty labelled pictures, mIoU", "segmentation", "test/miou", 0.569, 0.001),
    Figure("colour and position, mIoU", "colour and position", "test/miou", 0.268, 0.001),
)


def measured(command: str, name: str, seed: int, into: Path) -> dict[str, float]:
    """The figures of one run, which is made where it is not whole."""
    folder = into / f"{name.replace(' ', '_')}-seed{seed}"
    results = folder / "results.json"
    if not results.is_file():
        run(f"{command} seed={seed} hydra.run.dir={folder}")
    return json.loads(results.read_text())["metrics"]


def run(command: str) -> None:
    """One of the doors, where this was called."""
    print(f"python {command}", flush=True)
    door, *words = command.split()
    subprocess.run([sys.executable, ROOT / door, *words], check=True)


def row(figure: Figure, values: list[float]) -> list[str]:
    """What the README says, what was measured, and whether it moved."""
    mean, own = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    deviation = max(own, figure.deviation)
    moved = deviation > 0 and abs(mean - figure.mean) > 2 * deviation
    said, came = f"{figure.mean:.3f}", f"{mean:.3f} ± {own:.3f}"
    return [figure.said, said, came, str(len(values)), "moved" if moved else ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(RUNS), nargs="+", default=list(RUNS))
    parser.add_argument("--into", type=Path, default=Path("outputs/results"))
    asked = parser.parse_args()
    rows = []
    for name in asked.only:
        for command in PREPARATIONS.get(name, ()):
            run(command)
        runs = [measured(RUNS[name], name, seed, asked.into) for seed in asked.seeds]
        of_run = [figure for figure in FIGURES if figure.run == name]
        rows += [row(one, [metrics[one.metric] for metrics in runs]) for one in of_run]
    head = ["figure", "README", "measured", "seeds", ""]
    table = Table(*head)
    for line in rows:
        table.add_row(*line)
    Console().print(table)
    asked.into.mkdir(parents=True, exist_ok=True)
    with (asked.into / "readme_figures.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    print(asked.into / "readme_figures.csv")


if __name__ == "__main__":
    main()
