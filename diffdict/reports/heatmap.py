"""`report=heatmap`: finished runs as maps of timestep × block, a panel for each other choice."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from diffdict import files
from diffdict.reports.drawing.canvas import (
    EMPTY,
    INK,
    PAPER,
    ramp,
    readable_on,
    stacked,
    text_at,
    wide,
    write_png,
)
from diffdict.reports.runs.collected import Collected
from diffdict.reports.runs.folders import Runs
from diffdict.reports.runs.points import (
    Mean,
    Point,
    Value,
    averaged,
    better,
    compared,
    grouped,
    ordered,
    row_of,
    titled,
)
from diffdict.reports.runs.rows import Row, as_csv, print_rows, spoken

WIDE, TALL, GAP, LINE = 58, 34, 16, 20  # of a cell; between panels; of a line of text
SHEET = 1700  # pixels across, after which panels begin another row
SIGN = {1: ": more is better", -1: ": less is better", 0: ""}


class Panel(NamedTuple):
    """One map of one figure."""

    title: str
    cells: dict[tuple[Value, Value], Mean]  # by timestep and block

    def best(self, sign: int) -> tuple[Value, Value] | None:
        """The cell with the best figure; none where neither more nor less is better."""
        return max(self.cells, key=lambda cell: sign * self.cells[cell].mean) if sign else None


class Heatmap:
    """`<folder>/heatmap.png` and `heatmap.csv`, and the best cells as a table."""

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
        points, keys, groups, metrics = compared(runs, self.task, self.metrics, self.over, along)
        maps = {metric: _panels(groups, keys, metric) for metric in metrics}
        axes = [_axis(points, key) for key in ("timestep", "block")]
        folder = files.writable_folder(self.folder)
        rows = _rows(groups, keys, metrics)
        files.write_atomic(folder / "heatmap.csv", as_csv(rows).encode())
        sheet = stacked([draw(metric, panels, *axes) for metric, panels in maps.items()])
        picture = write_png(sheet, folder / "heatmap.png")
        print_rows(_best(maps), "Best cells")
        print(f"heatmap: {picture}")
        return Collected("heatmap", rows, picture)


def _axis(points: Sequence[Point], key: str) -> list[Value]:
    return sorted({point.settings[key] for point in points}, key=ordered)


def _panels(groups: dict[tuple, list[Point]], keys: Sequence[str], metric: str) -> list[Panel]:
    """A panel for each group that has this figure."""
    panels = []
    for values, points in groups.items():
        cells = grouped(points, ["timestep", "block"])
        means = {cell: averaged(own, metric) for cell, own in cells.items()}
        known = {cell: mean for cell, mean in means.items() if mean is not None}
        if known:
            panels.append(Panel(titled(keys, values), known))
    return panels


def _rows(
    groups: dict[tuple, list[Point]], keys: Sequence[str], metrics: Sequence[str]
) -> list[Row]:
    """Every cell of every panel, a line each."""
    rows = []
    for values, points in groups.items():
        for (timestep, block), own in grouped(points, ["timestep", "block"]).items():
            place = dict(zip([*keys, "timestep", "block"], (*values, timestep, block), strict=True))
            rows.append(row_of(place, own, metrics))
    return rows


def _best(maps: dict[str, list[Panel]]) -> list[Row]:
    """The best cell of every panel whose figure has a better end."""
    rows = []
    for metric, panels in maps.items():
        for panel in panels:
            if (cell := panel.best(better(metric))) is None:
                continue
            place = {"timestep": spoken(cell[0]), "block": spoken(cell[1])}
            own = {"panel": panel.title} if panel.title else {}
            rows.append({"metric": metric, **own, **place, "value": str(panel.cells[cell])})
    return rows


def draw(
    metric: str, panels: Sequence[Panel], timesteps: Sequence[Value], blocks: Sequence[Value]
) -> Image.Image:
    """The panels of one figure, in rows, on one scale of colours; each one's best cell framed."""
    sign = better(metric)
    means = [mean.mean for panel in panels for mean in panel.cells.values()]
    ends = (max(means), min(means)) if sign < 0 else (min(means), max(means))  # dark, bright
    tiles = [_tile(panel, sign, ends, timesteps, blocks) for panel in panels]
    across, down = max(tile.width for tile in tiles), tiles[0].height
    rows = -(-len(tiles) // max(1, SHEET // across))
    columns = -(-len(tiles) // rows)
    title = metric + SIGN[sign]
    width = max(columns * across + 4 * GAP + wide("0.00000"), wide(title) + 2 * GAP)
    sheet = Image.new("RGB", (width, LINE + GAP + rows * down), PAPER)
    pen = ImageDraw.Draw(sheet)
    text_at(pen, (GAP, GAP // 2), title, "la")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * across, LINE + GAP + number // columns * down))
    _bar(pen, (columns * across + GAP, LINE + GAP + LINE), TALL * len(blocks), ends)
    return sheet


def _tile(
    panel: Panel,
    sign: int,
    ends: tuple[float, float],
    timesteps: Sequence[Value],
    blocks: Sequence[Value],
) -> Image.Image:
    """A panel's cells with their figures, timesteps below and blocks at the side."""
    step = max(WIDE, *(wide(spoken(timestep)) + 8 for timestep in timesteps))
    left = max(wide(spoken(block)) for block in blocks) + wide("block ") + GAP
    width = left + max(step * len(timesteps), wide(panel.title)) + GAP
    tile = Image.new("RGB", (width, LINE + TALL * len(blocks) + 2 * LINE + GAP), PAPER)
    pen = ImageDraw.Draw(tile)
    text_at(pen, (left, LINE - GAP // 2), panel.title, "ls")
    best = panel.best(sign)
    for row, block in enumerate(blocks):
        y = LINE + row * TALL
        said = f"block {spoken(block)}" if row == 0 else spoken(block)
        text_at(pen, (left - 6, y + TALL // 2), said, "rm")
        for column, timestep in enumerate(timesteps):
            mean = panel.cells.get((timestep, block))
            x = left + column * step
            box = (x, y, x + step - 2, y + TALL - 2)
            _cell(pen, box, mean, ends, framed=best == (timestep, block))
    below = LINE + len(blocks) * TALL + 4
    for column, timestep in enumerate(timesteps):
        text_at(pen, (left + column * step + step // 2 - 1, below), spoken(timestep), "ma")
    text_at(pen, (left, below + LINE), "timestep", "la")
    return tile


def _cell(
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    mean: Mean | None,
    ends: tuple[float, float],
    framed: bool,
) -> None:
    """A figure in its colour; its frame is dark and light, so that it is seen on every colour."""
    x, y, right, bottom = box
    colour = EMPTY if mean is None else ramp(_share(mean.mean, ends))
    pen.rectangle(box, colour)
    if framed:
        pen.rectangle(box, outline=INK, width=3)
        pen.rectangle((x + 3, y + 3, right - 3, bottom - 3), outline=PAPER)
    said = "" if mean is None else brief(mean.mean)
    text_at(pen, ((x + right) // 2, (y + bottom) // 2), said, "mm", readable_on(colour))


def brief(value: float) -> str:
    """A figure in a cell's width: three decimals, unless it is a count, large or tiny."""
    if value == round(value) or abs(value) >= 10:
        return f"{value:.4g}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.0e}"


def _share(value: float, ends: tuple[float, float]) -> float:
    return 0.5 if ends[0] == ends[1] else (value - ends[0]) / (ends[1] - ends[0])


def _bar(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], height: int, ends: tuple[float, float]
) -> None:
    """What the colours mean."""
    x, y = place
    for line in range(height):
        share = 1 - line / max(1, height - 1)
        pen.line((x, y + line, x + GAP, y + line), ramp(share))
    shares = ((0.5, "lm"),) if ends[0] == ends[1] else ((0, "ls"), (1, "la"))
    for share, anchor in shares:
        where = (x + GAP + 5, y + round((1 - share) * height))
        text_at(pen, where, brief(ends[round(share)]), anchor)
