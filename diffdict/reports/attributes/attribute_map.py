"""Maps of attribute × place of finished runs: where in a network, or in a code, each is held."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffdict.reports.drawing.chart import (
    draw_cells,
    frame_cell,
    name_cells,
    new_figure,
    styled,
    write_chart,
)
from diffdict.results.folders import Finished, Runs, tables_of_run
from diffdict.results.tables import Row

TABLE = "attributes"  # of task=probe_sweep with target=attributes
WIDE, NARROW, TALL, LETTER = 0.36, 0.15, 0.2, 0.075  # inches of a cell; of a letter
WRITTEN = 24  # so many columns have their figures written in
SHOWN = {  # of the parts of a code those whose columns stand together, each in a panel
    "parts alone": ("whole", "stage", "segment"),
    "prefixes, as timesteps open them": ("prefix",),
}


class AttributePanel(NamedTuple):
    """One map."""

    title: str
    columns: list[str]
    rows: list[str]
    scores: list[list[float | None]]
    gains: list[list[float | None]]  # from 0, chance, to 1
    chosen: list[int | None]  # of each row the column that pictures held out are told best at


def write_attribute_map(runs: Runs, path: Path) -> Path | None:
    """Every run's maps, one below the other; None where no run has such a table."""
    tables = [(run, rows) for run in runs.finished if (rows := attribute_rows(run))]
    panels = [one for run, rows in tables for one in attribute_panels(run, rows, len(tables) > 1)]
    return write_chart(draw_attribute_maps(panels), path) if panels else None


def attribute_rows(run: Finished) -> list[Row]:
    """Every attribute at every place of a run; of others than task=probe_sweep none."""
    if run.task != "probe_sweep":
        return []
    return tables_of_run(run).get(TABLE, [])


def attribute_panels(run: Finished, rows: Sequence[Row], several: bool) -> list[AttributePanel]:
    """Of a network one map of its timesteps and blocks, of a code one for each kind of part."""
    name = f"{run.folder.name}: " if several else ""
    network = run.results["facts"].get("backbone", "")
    if not any(row.get("part") for row in rows):
        return [_panel(f"{name}{network} timesteps and blocks".strip(), rows)]
    panels = []
    for title, kinds in SHOWN.items():
        if part_rows := [row for row in rows if row.get("kind_of_part") in kinds]:
            panels.append(_panel(f"{name}{network} {title}".strip(), part_rows))
    return panels


def _panel(title: str, rows: Sequence[Row]) -> AttributePanel:
    columns = list(dict.fromkeys(map(place_name, rows)))
    names = list(dict.fromkeys(row["attribute"] for row in rows if row["in_mean"]))
    cells = {(row["attribute"], place_name(row)): row for row in rows}
    every = [[cells.get((name, column)) for column in columns] for name in names]
    return AttributePanel(
        title,
        columns,
        names,
        [[row and row["score"] for row in line] for line in every],
        [[row and gain(row) for row in line] for line in every],
        [_chosen(line) for line in every],
    )


def _chosen(line: Sequence[Row | None]) -> int | None:
    """The column with the best figure on pictures held out; the first of equal ones."""
    scores = [(row["val_score"], -x) for x, row in enumerate(line) if row and row["val_score"]]
    return -max(scores)[1] if scores else None


def place_name(row: Mapping) -> str:
    """A column: t150 b3, code, prefix12."""
    if row.get("part"):
        return str(row["part"])
    timestep = "" if row["timestep"] is None else f"t{row['timestep']} "
    block = row["block"]
    return f"{timestep}{f'b{block}' if isinstance(block, int) else block}"


def gain(row: Mapping) -> float | None:
    """How much of what lies between chance and certainty is there: 0 to 1."""
    if row["score"] is None or row["chance"] is None or row["chance"] >= 1:
        return None
    return max(0.0, (row["score"] - row["chance"]) / (1 - row["chance"]))


@styled()
def draw_attribute_maps(panels: Sequence[AttributePanel]) -> "matplotlib.figure.Figure":
    """One below the other on one scale; each attribute's chosen place is framed."""
    wide = [len(p.columns) * (WIDE if len(p.columns) <= WRITTEN else NARROW) for p in panels]
    beside = LETTER * max(len(name) for panel in panels for name in panel.rows) + 1.2
    below = LETTER * max(len(name) for panel in panels for name in panel.columns) + 0.5
    tall = [len(panel.rows) * TALL + below for panel in panels]
    width = max(max(wide) + beside, LETTER * 1.3 * max(len(panel.title) for panel in panels))
    figure = new_figure(width, sum(tall) + 0.3)
    every = figure.subplots(len(panels), 1, height_ratios=tall, squeeze=False)[:, 0]
    for panel, axes in zip(panels, every, strict=True):
        has_texts = len(panel.columns) <= WRITTEN
        texts = [
            ["" if score is None or not has_texts else f"{score:.2f}" for score in row]
            for row in panel.scores
        ]
        mesh = draw_cells(axes, panel.gains, texts, (0, 1), "viridis")
        name_cells(axes, panel.columns, panel.rows, rotation=90)
        axes.tick_params(labelsize=7.5 if has_texts else 6)
        axes.set(title=panel.title)
        for y, x in enumerate(panel.chosen):
            if x is not None:
                frame_cell(axes, x, y)
    bar = figure.colorbar(mesh, ax=list(every), aspect=30, pad=0.02)
    bar.set_label("from chance (0) to certain (1): average precision, of numbers Pearson r")
    return figure
