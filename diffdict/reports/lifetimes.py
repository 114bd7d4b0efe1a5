"""`report=lifetimes`: latents × timesteps sorted by birth, and each class's latent in time."""

import math
from collections.abc import Sequence
from pathlib import Path

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.drawing.chart import (
    draw_cells,
    name_cells,
    new_figure,
    styled,
    write_chart,
)
from diffdict.reports.sweeps.collected import Collected
from diffdict.results.folders import Runs, tables_of_run
from diffdict.results.tables import Row

FAINTEST = 1e-5  # density that is the end of the colours
DENSITY, LATENT, IOU, RELIABILITY = "density_t", "latent_t", "iou_t", "reliability_t"


class LifetimeMap:
    """`<folder>/lifetimes.png`, and on labelled pictures `class_latents.png` (and `.svg`)."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def collect(self, runs: Runs) -> Collected:
        """Draws the one run of task=lifetimes that is among these."""
        matches = [run for run in runs.finished if run.task == "lifetimes"]
        if len(matches) != 1:
            raise UserError(
                f"report=lifetimes shows one run of task=lifetimes, got {len(matches)} "
                f"({', '.join(str(run.folder) for run in matches) or 'none'}): runs=outputs/…"
            )
        tables, folder = tables_of_run(matches[0]), files.writable_folder(self.folder)
        picture = write_chart(draw_lifetimes(tables["lifetimes"]), folder / "lifetimes.png")
        print(f"lifetimes: {picture}")
        if "class_latents" in tables:
            figure = draw_class_latents(tables["class_latents"])
            print(f"lifetimes: {write_chart(figure, folder / 'class_latents.png')}")
        return Collected("lifetimes", tables["timesteps"], picture)


def timesteps_of(row: Row, prefix: str) -> list[str]:
    """The timesteps of a row's columns, ascending, as its columns say them."""
    timesteps = [key.removeprefix(prefix) for key in row if key.startswith(prefix)]
    return sorted(timesteps, key=int)


@styled()
def draw_lifetimes(rows: Sequence[Row]) -> "matplotlib.figure.Figure":
    """Density and reliability of every latent at every timestep; those born first above."""
    from matplotlib.colors import LogNorm

    steps = timesteps_of(rows[0], DENSITY)
    figure = new_figure(7.6, 5.4)
    left, right = figure.subplots(1, 2, sharey=True)
    dense = [[max(_number(row[DENSITY + t]), FAINTEST) for t in steps] for row in rows]
    alive = {"norm": LogNorm(FAINTEST, 1), "cmap": "magma"}
    steady = [[_number(row[RELIABILITY + t]) for t in steps] for row in rows]
    for axes, values, title, options in (
        (left, dense, "density", alive),
        (right, steady, "reliability", {"vmin": 0, "vmax": 1, "cmap": "viridis"}),
    ):
        mesh = axes.pcolormesh(values, rasterized=True, **options)
        axes.set_xticks([place + 0.5 for place in range(len(steps))], map(int, steps))
        axes.set(title=title, xlabel="timestep")
        figure.colorbar(mesh, ax=axes, aspect=30, pad=0.02, format="%g")
    left.set_ylim(len(rows), 0)
    left.set_ylabel("latents, sorted by birth")
    births = [row["birth"] for row in rows]
    for place in range(1, len(rows)):
        if births[place] != births[place - 1]:
            left.axhline(place, color="white", lw=0.8)
            right.axhline(place, color="white", lw=0.8)
    return figure


@styled()
def draw_class_latents(rows: Sequence[Row]) -> "matplotlib.figure.Figure":
    """Which latent finds each class best at each timestep, and how well."""
    steps = timesteps_of(rows[0], IOU)
    figure = new_figure(0.75 * len(steps) + 3.0, 0.3 * len(rows) + 1.1)
    axes = figure.subplots()
    values = [[row[IOU + t] for t in steps] for row in rows]
    texts = [
        ["" if row[LATENT + t] is None else str(row[LATENT + t]) for t in steps] for row in rows
    ]
    numbers = [value for row in values for value in row if value is not None]
    mesh = draw_cells(axes, values, texts, (0, max(numbers, default=1.0)), "viridis")
    name_cells(axes, [str(int(t)) for t in steps], [str(row["class"]) for row in rows])
    axes.set(title="latent of the best IoU with the class's tokens", xlabel="timestep")
    figure.colorbar(mesh, ax=axes, aspect=30, pad=0.02).set_label("IoU")
    return figure


def _number(value: float | None) -> float:
    return math.nan if value is None else value
