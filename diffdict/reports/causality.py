"""`report=causality`: effects beside their controls, and what predicts them, as charts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.attributes.fade_curves import rank_correlation
from diffdict.reports.drawing.chart import LINES, MARKERS, new_figure, styled, write_chart
from diffdict.reports.sweeps.collected import Collected
from diffdict.results.folders import Runs, tables_of_run
from diffdict.results.tables import Row, as_csv, print_rows

PREDICTORS = {
    "iou": "IoU with tokens",
    "excess": "excess",
    "average_precision": "average precision",
    "one_pass": "effect in one pass",
}
EDITS = {
    "latents": "its latents",
    "direction": "random direction, as long",
    "others": "other latents",
    "others_equal": "others, as large a change",
    "difference": "mean difference",
}


class CausalityCharts:
    """`<folder>/predictors.png` of task=screening, `effects.png` of task=causality (and `.svg`).

    Predictors as a scatter against the effect of each latent on its class, over all runs; of
    effects the share of each class that is left, beside its controls.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def collect(self, runs: Runs) -> Collected:
        """Draws what these runs have, and prints how well each predictor orders."""
        shown = [run for run in runs.finished if run.task in ("screening", "causality")]
        pairs, effects = (
            [row for run in shown if run.task == task for row in tables_of_run(run).get(name, ())]
            for task, name in (("screening", "latents"), ("causality", "effects"))
        )
        if not pairs and not effects:
            raise UserError(
                "report=causality shows runs of task=screening and task=causality, and none of "
                "these is one: runs=outputs/…, the folder of such a run"
            )
        folder, rows, picture = files.writable_folder(self.folder), [], None
        if effects:
            picture = write_chart(draw_effects(effects), folder / "effects.png")
            print(f"causality: {picture}")
        if pairs:
            rows = correlations(pairs)
            picture = write_chart(draw_predictors(pairs), folder / "predictors.png")
            files.write_atomic(folder / "predictors.csv", as_csv(rows).encode())
            print_rows(rows, "Rank correlation with the effect")
            print(f"causality: {picture}")
        return Collected("causality", rows or effects, picture)


def effect_of(rows: Sequence[Row]) -> str:
    """What the predictors are held against: whole chains where they were drawn."""
    return "chain" if any(_known(row.get("chain")) for row in rows) else "one_pass"


def correlations(rows: Sequence[Row]) -> list[Row]:
    """Spearman's of each predictor, over all pairs and as a mean within classes."""
    effect, results = effect_of(rows), []
    for key in (key for key in PREDICTORS if key != effect):
        within = []
        for class_rows in _by_class(rows).values():
            value = _spearman(class_rows, key, effect)
            within += [] if value is None else [value]
        mean = sum(within) / len(within) if within else None
        over = _spearman(rows, key, effect)
        row = {"predictor": key, "effect": effect, "pairs": len(rows)}
        results.append({**row, "spearman": over, "within_classes": mean, "classes": len(within)})
    return results


@styled()
def draw_predictors(rows: Sequence[Row]) -> "matplotlib.figure.Figure":
    """A panel a predictor: each point a latent and a class."""
    effect, results = effect_of(rows), correlations(rows)
    figure = new_figure(3.4 * len(results) + 1.6, 3.4)
    every = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, result in zip(every, results, strict=True):
        for place, (name, some) in enumerate(_by_class(rows).items()):
            marker = MARKERS[place // len(LINES) % len(MARKERS)]
            x, y = _columns(some, str(result["predictor"]), effect)
            axes.scatter(x, y, s=18, color=LINES[place % len(LINES)], marker=marker, label=name)
        within = result["within_classes"]
        words = "" if within is None else f", {within:.2f} within classes"
        over = result["spearman"]
        axes.set(title="" if over is None else f"Spearman {over:.2f}{words}")
        axes.set_xlabel(PREDICTORS[str(result["predictor"])])
        axes.grid(visible=True)
    chain = "whole chains" if effect == "chain" else "one pass"
    every[0].set_ylabel(f"share of the class that goes ({chain})")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7.5)
    return figure


@styled()
def draw_effects(rows: Sequence[Row]) -> "matplotlib.figure.Figure":
    """A line a class: what is left of it under its latents and under each control."""
    panels: dict[tuple, list[Row]] = {}
    for row in rows:
        panels.setdefault((row.get("judge"), row["amount"], row["window"]), []).append(row)
    high = [0.26 * len({row["class"] for row in panel}) + 0.9 for panel in panels.values()]
    figure = new_figure(6.4, sum(high))
    every = figure.subplots(len(panels), 1, height_ratios=high, squeeze=False)[:, 0]
    for axes, ((judge, amount, window), panel) in zip(every, panels.items(), strict=True):
        _draw_panel(axes, panel)
        parts = [f"codes × {amount:g}"] + ([] if window is None else [f"timesteps {window}"])
        parts += [] if judge is None else [f"judge {judge}"]
        axes.set(title=", ".join(parts), xlim=(-0.03, 1.03))
    every[-1].set_xlabel("share of the class's pixels that is left")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7.5)
    return figure


def _draw_panel(axes: "matplotlib.axes.Axes", rows: Sequence[Row]) -> None:
    latent_rows = [row for row in rows if row["edit"] == "latents" and _known(row["kept"])]
    names = [row["class"] for row in sorted(latent_rows, key=lambda row: -row["kept"])]
    for place, (edit, words) in enumerate(EDITS.items()):
        some = [r for r in rows if r["edit"] == edit and _known(r["kept"]) and r["class"] in names]
        x, y = [row["kept"] for row in some], [names.index(row["class"]) for row in some]
        bars = [row["error"] if edit == "latents" and _known(row["error"]) else 0 for row in some]
        marker = {"fmt": MARKERS[place % len(MARKERS)], "color": LINES[place], "ls": "none"}
        if some:
            axes.errorbar(x, y, xerr=bars, label=words, elinewidth=1, **marker)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=True, axis="x")


def _by_class(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    classes: dict[str, list[Row]] = {}
    for row in rows:
        classes.setdefault(str(row["class"]), []).append(row)
    return classes


def _columns(rows: Sequence[Row], *keys: str) -> list[list[float]]:
    """Figures that may not be there, as floats."""
    return [[row[key] if _known(row.get(key)) else math.nan for row in rows] for key in keys]


def _spearman(rows: Sequence[Row], predictor: str, effect: str) -> float | None:
    """Over the pairs that have both figures."""
    both = [row for row in rows if _known(row.get(predictor)) and _known(row.get(effect))]
    return rank_correlation(*_columns(both, predictor, effect)) if both else None


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
