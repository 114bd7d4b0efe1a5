"""`report=curve`: a figure against a number, a line for each other choice, bars over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.drawing.chart import LINES, MARKERS, new_figure, styled, write_chart
from diffdict.reports.sweeps.collected import Collected
from diffdict.reports.sweeps.points import (
    NOISE,
    Mean,
    Point,
    Value,
    averaged,
    compare_points,
    grouped,
    random_of,
    row_of,
    titled,
    unit,
    varying,
)
from diffdict.results.folders import Runs
from diffdict.results.tables import as_csv, format_cell, print_rows

WIDE, TALL, LETTER = 6.6, 2.9, 0.05  # inches of a plot; of a narrow letter in a legend
MARGIN = 0.3  # inches around a legend
STROKES = ("-", "--", "-.")  # the next one once colours and markers are used up
DECADES = 20  # numbers along the axis that span more than this factor are spread by logarithm
APART = 0.05  # of the axis, at least, between numbers that are written along it


class Trace(NamedTuple):
    """One line."""

    title: str
    place: int  # among all choices, which each have a colour of their own
    means: dict[float, Mean]  # by the number along the axis, ascending
    random: dict[float, Mean]  # what as many random directions reach, where it was measured


class Curve:
    """`<folder>/curve.png` (and `.svg`) and `curve.csv`."""

    def __init__(
        self,
        folder: str | Path,
        x: str | None = None,
        metrics: Sequence[str] | None = None,
        over: Sequence[str] | None = ("seed",),
        task: str | Sequence[str] | None = None,
        only: Mapping[str, object] | None = None,
    ) -> None:
        """`x`: the setting along the axis, as it was typed; `over`: what is averaged.

        Besides what is typed there are backbone.step, the steps of a training whose checkpoint was
        measured, and sigma, the noise of a timestep, on which all diffusion networks compare.
        `only`: settings and the values that are drawn, such as {block: 6}.
        """
        self.folder, self.x, self.metrics = Path(folder), x, metrics
        self.over, self.task, self.only = over, task, only

    def collect(self, runs: Runs) -> Collected:
        """Draws, writes and prints."""
        along = [] if self.x is None else [self.x]
        points, keys, groups, metrics = compare_points(
            runs, self.task, self.metrics, self.over, along, self.only
        )
        self._check_axis(points)
        rows = [
            row_of(dict(zip([*keys, self.x], (*values, number), strict=True)), repeats, metrics)
            for values, along in groups.items()
            for (number,), repeats in grouped(along, [self.x]).items()
        ]
        folder = files.writable_folder(self.folder)
        files.write_atomic(folder / "curve.csv", as_csv(rows).encode())
        plots = {metric: self._traces(groups, keys, metric) for metric in metrics}
        picture = write_chart(draw_curves(plots, self.x, self.over or ()), folder / "curve.png")
        print_rows(rows)
        print(f"curve: {picture}")
        return Collected("curve", rows, picture)

    def _check_axis(self, points: Sequence[Point]) -> None:
        numbers = [
            key for key in varying(points) if all(_is_number(p.settings[key]) for p in points)
        ]
        if self.x in numbers:
            return
        if self.x == NOISE:
            raise UserError(
                "x=sigma is the noise of a timestep, and it is not known of all these runs, or is "
                "one: it is measured of a diffusion network with task=probe_sweep (of pictures, "
                "not of a store), linear_probe or geometry, at several timesteps"
            )
        what = "report=curve needs x=" if self.x is None else f"x={self.x} is no number that varies"
        raise UserError(
            f"{what}: the setting along the axis. Numbers that vary between these runs: "
            f"{', '.join(numbers) or 'none'}"
        )

    def _traces(
        self, groups: dict[tuple, list[Point]], keys: Sequence[str], metric: str
    ) -> list[Trace]:
        traces = []
        for number, (values, points) in enumerate(groups.items()):
            along = grouped(points, [self.x])
            means, random = (_means(along, name) for name in (metric, random_of(metric)))
            if means:
                title = titled(keys, values) or titled(keys, ["none"] * len(keys))
                traces.append(Trace(title, number, means, random))
        return traces


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _means(along: Mapping[tuple, Sequence[Point]], metric: str) -> dict[float, Mean]:
    """Of a figure at each number along the axis at which it was measured."""
    means = {float(x): averaged(points, metric) for (x,), points in along.items()}
    return {x: mean for x, mean in means.items() if mean is not None}


@styled()
def draw_curves(
    plots: Mapping[str, Sequence[Trace]], x: str, over: Sequence[str] = ()
) -> "matplotlib.figure.Figure":
    """A plot for each figure, one below the other, and what the lines are."""
    figure = new_figure(WIDE, TALL * len(plots))
    every = figure.subplots(len(plots), 1, squeeze=False)[:, 0]
    entries: dict[str, object] = {}  # what stands in the legend, by its words
    for (metric, traces), axes in zip(plots.items(), every, strict=True):
        entries |= _draw_plot(axes, metric, traces)
        axes.set_xlabel(x)
    means = [mean for traces in plots.values() for trace in traces for mean in trace.means.values()]
    several = over and any(mean.std is not None for mean in means)
    spread = f"bars: ± one standard deviation over {', '.join(over)}" if several else None
    if entries or spread:
        _add_legend(figure, entries, spread)
    return figure


def _add_legend(
    figure: "matplotlib.figure.Figure", entries: Mapping[str, object], spread: str | None
) -> None:
    """Below the plots, in as many columns as there is room for; the figure grows by its size."""
    longest = max(map(len, entries), default=1)
    for columns in range(max(1, int(WIDE / (LETTER * longest + 0.5))), 0, -1):
        legend = figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower left",
            ncols=columns,
            title=spread,
            title_fontsize="small",
            alignment="left",
            fontsize="small",
        )
        box = legend.get_window_extent(figure.canvas.get_renderer())
        wide, tall = box.width / figure.dpi + MARGIN, box.height / figure.dpi + MARGIN
        if wide <= WIDE or columns == 1:
            break
        legend.remove()
    figure.set_size_inches(max(WIDE, wide), figure.get_figheight() + tall)


def _draw_plot(
    axes: "matplotlib.axes.Axes", metric: str, traces: Sequence[Trace]
) -> dict[str, object]:
    """One figure's lines; those of random directions are dotted. What stands in the legend."""
    entries: dict[str, object] = {}
    for trace in traces:
        colour = LINES[trace.place % len(LINES)]
        marker = MARKERS[trace.place // len(LINES) % len(MARKERS)]
        stroke = STROKES[trace.place // len(LINES) // len(MARKERS) % len(STROKES)]
        xs, means = list(trace.means), [mean.mean for mean in trace.means.values()]
        stds = [mean.std or 0 for mean in trace.means.values()]
        bars = axes.errorbar(
            xs,
            means,
            stds if any(stds) else None,
            color=colour,
            marker=marker,
            ls=stroke,
            capsize=3,
        )
        entries |= {trace.title: bars} if trace.title else {}
    for trace in traces:
        if trace.random:
            colour, values = LINES[trace.place % len(LINES)], trace.random.values()
            lines = axes.plot([*trace.random], [m.mean for m in values], ":", color=colour)
            entries |= {"dotted: as many random directions": lines[0]}
    axes.set_title(" · ".join(filter(None, (metric, unit(metric)))), weight="bold")
    axes.grid(axis="y")
    _spread_axis(axes, sorted({number for trace in traces for number in trace.means}))
    return entries


def _spread_axis(axes: "matplotlib.axes.Axes", numbers: Sequence[float]) -> None:
    """The measured numbers are written along the axis, but for those too close to the last one."""
    if numbers[0] > 0 and numbers[-1] > DECADES * numbers[0]:
        axes.set_xscale("log")
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(0 if 0 < low < high / 2 else low, high)  # a share begins at nothing
    ticks: list[float] = []
    places = axes.transAxes.inverted().transform(
        [axes.transData.transform((number, low)) for number in numbers]
    )
    last = float("-inf")
    for number, (place, _) in zip(numbers, places, strict=True):
        if place - last >= APART:
            ticks, last = [*ticks, number], place
    axes.set_xticks(ticks, [format_cell(_whole(number)) for number in ticks])


def _whole(number: float) -> int | float:
    """A step is written with all its digits."""
    return int(number) if number.is_integer() else number
