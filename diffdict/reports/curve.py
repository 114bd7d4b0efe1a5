"""`report=curve`: a figure against a number, a line for each other choice, a band over seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.drawing.canvas import (
    FAINT,
    INK,
    LINES,
    PAPER,
    Colour,
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
    compared,
    grouped,
    row_of,
    titled,
    varying,
)
from diffdict.reports.runs.rows import as_csv, print_rows, spoken

WIDE, TALL, GAP, LINE = 480, 280, 16, 20  # of the plot; around it; of a line of text
FINE = 3  # lines are drawn so many times larger, and come out smooth
DECADES = 20  # numbers along the axis that span more than this factor are spread by logarithm


class Trace(NamedTuple):
    """One line."""

    title: str
    colour: Colour
    means: dict[float, Mean]  # by the number along the axis, ascending


class Curve:
    """`<folder>/curve.png` and `curve.csv`."""

    def __init__(
        self,
        folder: str | Path,
        x: str | None = None,
        metrics: Sequence[str] | None = None,
        over: Sequence[str] | None = ("seed",),
        task: str | None = None,
    ) -> None:
        """`x`: the setting along the axis, as it was typed; `over`: what is averaged."""
        self.folder, self.x, self.metrics = Path(folder), x, metrics
        self.over, self.task = over, task

    def collect(self, runs: Runs) -> Collected:
        """Draws, writes and prints."""
        along = [] if self.x is None else [self.x]
        points, keys, groups, metrics = compared(runs, self.task, self.metrics, self.over, along)
        self._check_axis(points)
        rows = [
            row_of(dict(zip([*keys, self.x], (*values, number), strict=True)), own, metrics)
            for values, along in groups.items()
            for (number,), own in grouped(along, [self.x]).items()
        ]
        folder = files.writable_folder(self.folder)
        files.write_atomic(folder / "curve.csv", as_csv(rows).encode())
        plots = [draw(metric, self.x, self._traces(groups, keys, metric)) for metric in metrics]
        picture = write_png(stacked(plots), folder / "curve.png")
        print_rows(rows)
        print(f"curve: {picture}")
        return Collected("curve", rows, picture)

    def _check_axis(self, points: Sequence[Point]) -> None:
        numbers = [
            key for key in varying(points) if all(_is_number(p.settings[key]) for p in points)
        ]
        if self.x in numbers:
            return
        said = "report=curve needs x=" if self.x is None else f"x={self.x} is no number that varies"
        raise UserError(
            f"{said}: the setting along the axis. Numbers that vary between these runs: "
            f"{', '.join(numbers) or 'none'}"
        )

    def _traces(
        self, groups: dict[tuple, list[Point]], keys: Sequence[str], metric: str
    ) -> list[Trace]:
        traces = []
        for number, (values, points) in enumerate(groups.items()):
            along = grouped(points, [self.x])
            means = {float(x): averaged(own, metric) for (x,), own in along.items()}
            known = {x: mean for x, mean in means.items() if mean is not None}
            if known:
                traces.append(Trace(titled(keys, values), LINES[number % len(LINES)], known))
        return traces


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Axis(NamedTuple):
    """Numbers to places."""

    low: float
    high: float
    length: int
    logarithmic: bool = False

    def at(self, number: float) -> float:
        """Pixels from the start."""
        one, other, low = (
            map(math.log, (number, self.high, self.low))
            if self.logarithmic
            else (number, self.high, self.low)
        )
        return self.length / 2 if other == low else self.length * (one - low) / (other - low)


def draw(metric: str, x: str, traces: Sequence[Trace]) -> Image.Image:
    """One figure's lines, each with a band of one standard deviation, and what they are."""
    numbers = sorted({number for trace in traces for number in trace.means})
    spread = numbers[0] > 0 and numbers[-1] > DECADES * numbers[0]
    across = Axis(numbers[0], numbers[-1], WIDE - 2 * GAP, spread)
    ticks = _ticks(
        [end for trace in traces for mean in trace.means.values() for end in _ends(mean)]
    )
    up = Axis(ticks[0], ticks[-1], TALL)
    left = max(wide(f"{tick:.4g}") for tick in ticks) + 2 * GAP
    legend = max(wide(trace.title) for trace in traces)
    right = legend + 3 * GAP if legend else GAP
    top = LINE + GAP
    tall = max(TALL + 2 * LINE, LINE * len(traces) if legend else 0)
    sheet = Image.new("RGB", (left + WIDE + right, top + tall + GAP), PAPER)
    sheet.paste(_plot(traces, across, up, ticks), (left, top))
    pen = ImageDraw.Draw(sheet)
    text_at(pen, (GAP, GAP // 2), metric, "la")
    for tick in ticks:
        text_at(pen, (left - 6, top + TALL - round(up.at(tick))), f"{tick:.4g}", "rm")
    free = 0.0
    for number in numbers:
        place = left + GAP + across.at(number)
        if place - wide(spoken(number)) / 2 >= free:  # what would be written over another is not
            text_at(pen, (round(place), top + TALL + 5), spoken(number), "ma")
            free = place + wide(spoken(number)) / 2 + 4
    text_at(pen, (left + WIDE // 2, top + TALL + 5 + LINE), x, "ma")
    for number, trace in enumerate(traces if legend else []):
        y = top + number * LINE + LINE // 2
        pen.line((left + WIDE + GAP // 2, y, left + WIDE + GAP + 8, y), trace.colour, 3)
        text_at(pen, (left + WIDE + 2 * GAP, y), trace.title, "lm")
    return sheet


def _plot(traces: Sequence[Trace], across: Axis, up: Axis, ticks: Sequence[float]) -> Image.Image:
    """Bands, then lines and their points, on faint rules; enlarged while they are drawn."""
    plot = Image.new("RGB", (WIDE * FINE, TALL * FINE), PAPER)
    pen = ImageDraw.Draw(plot, "RGBA")
    place = lambda x, y: (FINE * (GAP + across.at(x)), FINE * (TALL - up.at(y)))  # noqa: E731
    for tick in ticks:
        y = min(FINE * (TALL - up.at(tick)), FINE * TALL - 1)
        pen.line((0, y, WIDE * FINE, y), (*FAINT, 90), 1)
    for trace in traces:
        over = [place(x, _ends(mean)[1]) for x, mean in trace.means.items()]
        under = [place(x, _ends(mean)[0]) for x, mean in trace.means.items()]
        if len(over) > 1:
            pen.polygon([*over, *reversed(under)], (*trace.colour, 40))
    for trace in traces:
        line = [place(x, mean.mean) for x, mean in trace.means.items()]
        pen.line(line, trace.colour, 2 * FINE, joint="curve")
        for x, y in line:
            pen.ellipse((x - 3 * FINE, y - 3 * FINE, x + 3 * FINE, y + 3 * FINE), trace.colour)
    pen.line((0, 0, 0, TALL * FINE), INK, FINE)
    pen.line((0, TALL * FINE - FINE, WIDE * FINE, TALL * FINE - FINE), INK, FINE)
    return plot.resize((WIDE, TALL), Image.Resampling.LANCZOS)


def _ends(mean: Mean) -> tuple[float, float]:
    return mean.mean - (mean.std or 0), mean.mean + (mean.std or 0)


def _ticks(values: Sequence[float]) -> list[float]:
    """Four to eight round numbers around these."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]
