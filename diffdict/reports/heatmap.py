"""`report=heatmap`: finished runs as maps of timestep × block, a panel for each other choice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffdict import files
from diffdict.reports.attributes.attribute_map import write_attribute_map
from diffdict.reports.drawing.chart import (
    draw_cells,
    frame_cell,
    name_cells,
    new_figure,
    styled,
    write_chart,
)
from diffdict.reports.sweeps.collected import Collected
from diffdict.reports.sweeps.points import (
    Mean,
    Point,
    Value,
    averaged,
    better,
    compare_points,
    grouped,
    ordered,
    random_of,
    row_of,
    titled,
    unit,
)
from diffdict.results.folders import Runs
from diffdict.results.tables import Row, as_csv, format_cell, print_rows

WIDE, TALL, LETTER, BOLD = 0.62, 0.4, 0.075, 0.095  # inches of a cell; of a letter
SHEET = 11.0  # inches across, after which panels begin another row
SIGN = {1: "more is better", -1: "less is better", 0: ""}
RANDOM = "#c62828"  # as on a dictionary's page
COLOURS = {1: "viridis", 0: "viridis", -1: "viridis_r"}  # the best is bright


class HeatmapPanel(NamedTuple):
    """One map of one figure."""

    title: str
    cells: dict[tuple[Value, Value], Mean]  # by timestep and block
    random: float | None  # what as many random directions reach, where it was measured

    def best(self, sign: int) -> tuple[Value, Value] | None:
        """The cell with the best figure; none where neither more nor less is better."""
        return max(self.cells, key=lambda cell: sign * self.cells[cell].mean) if sign else None


class Heatmap:
    """`<folder>/heatmap.png` (and `.svg`), `heatmap.csv`, and the best cells as a table.

    Of runs that measured attributes also `heatmap-attributes.png`: where each of them is held.
    """

    def __init__(
        self,
        folder: str | Path,
        metrics: Sequence[str] | None = None,
        over: Sequence[str] | None = ("seed",),
        task: str | None = None,
    ) -> None:
        """`metrics`: by default the usual ones that are there; `over`: what is averaged."""
        self.folder, self.metrics, self.over, self.task = Path(folder), metrics, over, task

    def collect(self, runs: Runs) -> Collected:
        """Draws, writes and prints."""
        along = ["timestep", "block"]
        points, keys, groups, metrics = compare_points(
            runs, self.task, self.metrics, self.over, along
        )
        maps = {metric: _panels(groups, keys, metric) for metric in metrics}
        axes = [_axis(points, key) for key in ("timestep", "block")]
        folder = files.writable_folder(self.folder)
        rows = _rows(groups, keys, metrics)
        files.write_atomic(folder / "heatmap.csv", as_csv(rows).encode())
        picture = write_chart(draw_heatmaps(maps, *axes), folder / "heatmap.png")
        print_rows(_best(maps), "Best cells")
        print(f"heatmap: {picture}")
        if by_attribute := write_attribute_map(runs, folder / "heatmap-attributes.png"):
            print(f"heatmap of attributes: {by_attribute}")
        return Collected("heatmap", rows, picture)


def _axis(points: Sequence[Point], key: str) -> list[Value]:
    return sorted({point.settings[key] for point in points}, key=ordered)


def _panels(
    groups: dict[tuple, list[Point]], keys: Sequence[str], metric: str
) -> list[HeatmapPanel]:
    """A panel for each group that has this figure."""
    panels = []
    for values, points in groups.items():
        cells = grouped(points, ["timestep", "block"])
        means = {cell: averaged(cell_points, metric) for cell, cell_points in cells.items()}
        figures = {cell: mean for cell, mean in means.items() if mean is not None}
        if figures:
            chance = averaged(points, random_of(metric))
            panels.append(HeatmapPanel(titled(keys, values), figures, chance and chance.mean))
    return panels


def _rows(
    groups: dict[tuple, list[Point]], keys: Sequence[str], metrics: Sequence[str]
) -> list[Row]:
    """Every cell of every panel, a line each."""
    rows = []
    for values, points in groups.items():
        for (timestep, block), cell_points in grouped(points, ["timestep", "block"]).items():
            place = dict(zip([*keys, "timestep", "block"], (*values, timestep, block), strict=True))
            rows.append(row_of(place, cell_points, metrics))
    return rows


def _best(maps: dict[str, list[HeatmapPanel]]) -> list[Row]:
    """The best cell of every panel whose figure has a better end."""
    rows = []
    for metric, panels in maps.items():
        for panel in panels:
            if (cell := panel.best(better(metric))) is None:
                continue
            place = {"timestep": format_cell(cell[0]), "block": format_cell(cell[1])}
            title = {"panel": panel.title} if panel.title else {}
            rows.append({"metric": metric, **title, **place, "value": str(panel.cells[cell])})
    return rows


@styled()
def draw_heatmaps(
    maps: Mapping[str, Sequence[HeatmapPanel]], timesteps: Sequence[Value], blocks: Sequence[Value]
) -> "matplotlib.figure.Figure":
    """A part for each figure, one below the other."""
    titles = {m: " · ".join(filter(None, (m, unit(m), SIGN[better(m)]))) for m in maps}
    beside = LETTER * (max(len(format_cell(block)) for block in blocks) + 4)
    above = LETTER * max(len(panel.title) for panels in maps.values() for panel in panels)
    wide = max(WIDE * len(timesteps) + beside, above)
    across = max(1, int(SHEET / wide))
    rows = {metric: -(-len(panels) // across) for metric, panels in maps.items()}
    tall = {metric: n * (TALL * len(blocks) + 0.75) + 0.3 for metric, n in rows.items()}
    columns = max(-(-len(panels) // rows[metric]) for metric, panels in maps.items())
    width = max(columns * wide + 1.3, BOLD * max(map(len, titles.values())))
    figure = new_figure(width, sum(tall.values()))
    parts = figure.subfigures(len(maps), 1, height_ratios=list(tall.values()), squeeze=False)
    for (metric, panels), part in zip(maps.items(), parts[:, 0], strict=True):
        part.suptitle(titles[metric], x=0.01, ha="left", fontsize="medium", weight="bold")
        every = part.subplots(rows[metric], columns, sharex=True, sharey=True, squeeze=False)
        _draw_part(part, better(metric), panels, every, timesteps, blocks)
    return figure


def _draw_part(
    part: "matplotlib.figure.SubFigure",
    sign: int,
    panels: Sequence[HeatmapPanel],
    every: "numpy.ndarray",
    timesteps: Sequence[Value],
    blocks: Sequence[Value],
) -> None:
    """The panels of one figure on one scale of colours; each one's best cell is framed."""
    chances = [panel.random for panel in panels if panel.random is not None]
    means = [mean.mean for panel in panels for mean in panel.cells.values()]
    limits = min([*means, *chances]), max([*means, *chances])
    words = ["none" if timestep is None else format_cell(timestep) for timestep in timesteps]
    tilted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    lean = tilted if max(map(len, words)) > 7 else {}
    for axes in every.flat[len(panels) :]:
        axes.set_visible(False)
    for panel, axes in zip(panels, every.flat, strict=False):
        cells = [[panel.cells.get((t, block)) for t in timesteps] for block in blocks]
        values = [[mean and mean.mean for mean in row] for row in cells]
        texts = [["" if mean is None else _said(mean) for mean in row] for row in cells]
        mesh = draw_cells(axes, values, texts, limits, COLOURS[sign])
        name_cells(axes, words, list(map(format_cell, blocks)), **lean)
        axes.set(title=panel.title)
        if (best := panel.best(sign)) is not None:
            frame_cell(axes, timesteps.index(best[0]), blocks.index(best[1]))
    for axes in every[:, 0]:
        axes.set_ylabel("block")
    for axes in every[-1]:
        axes.set_xlabel("timestep")
    bar = part.colorbar(mesh, ax=list(every.flat), aspect=14, pad=0.02)
    if limits[0] == limits[1]:  # one value has no scale
        bar.set_ticks([limits[0]], labels=[brief(limits[0])])
    if chances:
        chance = sum(chances) / len(chances)
        bar.ax.axhline(chance, color=RANDOM, lw=2)
        beside = {"transform": bar.ax.get_yaxis_transform(), "ha": "right", "va": "center"}
        bar.ax.text(-0.25, chance, f"random\n{brief(chance)}", color=RANDOM, **beside)


def _said(mean: Mean) -> str:
    """A cell's figure, and under it the deviation where there are several."""
    return brief(mean.mean) if mean.std is None else f"{brief(mean.mean)}\n± {mean.std:.1g}"


def brief(value: float) -> str:
    """A figure in a cell's width: three decimals, unless it is a count, large or tiny."""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:.4g}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.0e}"
