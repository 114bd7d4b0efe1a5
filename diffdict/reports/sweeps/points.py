"""Runs side by side: what each was set to, what it measured, and in which settings they differ."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from diffdict.errors import UserError, first_few
from diffdict.results.folders import RESULTS, Finished, Runs, checkpoint_step
from diffdict.results.naming import typed_keys
from diffdict.results.tables import Row, format_cell

Value = str | int | float | bool | tuple | None
ALWAYS = (  # settings that tell runs apart, typed or not
    *("dataset", "backbone", "backbone.step", "timestep", "block", "seed"),
    *("sae", "sae.scale", "sae.latents", "sae.k", "sae.sparsity"),
)
NEVER = {  # what is typed about the machine, or about what looks on
    *("sweep", "logger", "report", "callbacks", "paths", "local", "debug", "hydra"),
    *("tags", "test", "ckpt_path", "optimized_metric", "data.num_workers", "task"),
}
MACHINE = re.compile(r"trainer(\.(accelerator|devices|strategy|num_nodes|log_.*|enable_.*))?")
LISTED = re.compile(r"(scale|latents|k|sparsity)(\d[\dpe+-]*)")  # a part of scale10_k32
STREAM = re.compile(r"(?:t(\d+)-)?b(\d+)|t(\d+)-(.+)")  # t0150-b06, b12, t0150-layer1
USUAL = ("test/iou", "test/miou", "test/fvu", "test/l0")
OF_PICTURES = (  # the usual ones where none of those is
    *("test/accuracy", "test/average_precision", "test/pearson", "test/score"),
    *("test/alignment", "test/uniformity"),
    *("test/structure", "test/noise_share", "test/gamma", "test/effective_rank", "test/massive"),
    "test/frechet",
)
BY_STEP = ("samples", "backbone.checkpoint")  # whose paths may end with a training's step
NOISE = "sigma"  # an axis for timesteps: the noise's deviation for a signal of size 1
OF_CLASSES = re.compile(
    r"/(m?iou|map|purity|coverage|accuracy|average_precision|pearson|score)"
)  # figures that follow the classes
LESS_IS_BETTER = (
    *("fvu", "loss", "dead", "coherence", "coherence_max", "mse"),
    *("alignment", "uniformity", "frechet", "kid", "noise_share"),
)
NEITHER = ("l0", "gamma", "effective_rank", "massive", "massive_share")  # are there to be read
UNITS = {  # of figures whose name does not say it
    "iou": "0 to 1, mean of the classes",
    "miou": "0 to 1, mean of the classes",
    "map": "0 to 1, mean of the classes",
    "accuracy": "share that is told right",
    "average_precision": "0 to 1, mean of the classes",
    "score": "average precision, of numbers Pearson r, mean of the attributes",
    "pearson": "-1 to 1, mean of the numbers",
    "fvu": "share of the variance unexplained",
    "l0": "active latents a token",
    "dead": "share of the latents",
    "cosine": "-1 to 1",
    "structure": "-1 to 1, how much likeness falls with distance",
    "noise_share": "share of the variance that is noise",
    "gamma": "‖μ‖ / ‖σ‖",
    "effective_rank": "directions",
    "massive": "channels",
}


class Point(NamedTuple):
    """One thing that was measured: a run's, or one of its dictionaries or cells."""

    settings: dict[str, Value]
    metrics: dict[str, float]  # those that are no number left out
    run: Finished


class Mean(NamedTuple):
    """A figure over points that differ in their seed alone."""

    mean: float
    std: float | None  # of a sample; None for a single one
    n: int

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.2g}"
        return f"{self.mean:.3g}{spread}"


class Compared(NamedTuple):
    """Runs in groups that differ in something else than what is averaged or drawn along."""

    points: list[Point]
    keys: list[str]  # the settings in which groups differ
    groups: dict[tuple, list[Point]]  # by the values of these
    metrics: list[str]


def compare_points(
    runs: Runs,
    task: str | Sequence[str] | None,
    asked: Sequence[str] | None,
    over: Sequence[str] | None,
    along: Sequence[str] = (),
    only: Mapping[str, object] | None = None,
) -> Compared:
    """The points of a task that have a figure asked for, grouped by all but `over` and `along`.

    `only`: settings, and the value or the list of values that points must have to count.
    """
    points = _only(only or {}, points_of(runs, task))
    _check_over(over or (), points)
    metrics = chosen_metrics(points, asked)
    points = [point for point in points if set(metrics) & set(point.metrics)]
    if NOISE in along:
        points = [_by_noise(point) for point in points]
    keys = varying(points, [*(over or ()), *along])
    groups = grouped(points, keys)
    return Compared(points, keys, groups, comparable(groups, metrics, asked))


def points_of(runs: Runs, task: str | Sequence[str] | None = None) -> list[Point]:
    """Every point of the finished runs of one task or several (by default the most frequent one).

    Other tasks are said. Of points with the same settings the one that was measured last counts.
    """
    _say_unfinished(runs.unfinished)
    tasks = Counter(run.task for run in runs.finished)
    if not tasks:
        raise UserError(f"No run under runs= has ended well: none of them has its {RESULTS}")
    task = task or tasks.most_common(1)[0][0]
    chosen = [task] if isinstance(task, str) else list(task)
    for one in chosen:
        if one not in tasks:
            raise UserError(f"No run of task={one} is under runs=, only {', '.join(sorted(tasks))}")
    shown = ",".join(chosen)
    for other in sorted(set(tasks) - set(chosen)):
        print(f"Left out: {tasks[other]} of task={other}; shown is task={shown}")
    members = [run for run in runs.finished if run.task in chosen]
    keys = list(dict.fromkeys([*ALWAYS, *(key for run in members for key in _typed(run))]))
    last: dict[tuple, Point] = {}
    for run in sorted(members, key=lambda run: (run.folder / RESULTS).stat().st_mtime):
        for point in _points(run, keys):
            last[tuple(point.settings.items())] = point
    if not last:
        raise UserError(
            f"No run under runs= has measured a number: task={shown} gives none to show"
        )
    order = {run.folder: number for number, run in enumerate(members)}
    return sorted(last.values(), key=lambda point: order[point.run.folder])


def varying(points: Sequence[Point], besides: Iterable[str] = ()) -> list[str]:
    """The settings in which points differ, but for these, and for what follows from the others."""
    keys = dict.fromkeys(key for point in points for key in point.settings)
    keys = [key for key in keys if key not in set(besides) and len(grouped(points, [key])) > 1]
    override_keys = {key for point in points for key in _typed(point.run)}
    for key in [key for key in reversed(keys) if key not in override_keys]:
        rest = [other for other in keys if other != key]
        if len(grouped(points, rest)) == len(grouped(points, keys)):
            keys = rest
    return keys


def grouped(points: Iterable[Point], keys: Sequence[str]) -> dict[tuple, list[Point]]:
    """Points by their values of these settings, in order of the values."""
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point.settings.get(key) for key in keys), []).append(point)
    return {key: groups[key] for key in sorted(groups, key=lambda key: [ordered(v) for v in key])}


def averaged(points: Iterable[Point], metric: str) -> Mean | None:
    """The mean of a figure; None where no point has it."""
    values = [point.metrics[metric] for point in points if metric in point.metrics]
    if not values:
        return None
    return Mean(mean(values), stdev(values) if len(values) > 1 else None, len(values))


def row_of(settings: Mapping[str, Value], points: Sequence[Point], metrics: Sequence[str]) -> Row:
    """A line of a table: these settings, the number of points, and each figure with its spread."""
    row = {k: format_cell(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    row["n"] = len(points)
    for metric in metrics:
        mean = averaged(points, metric)
        row |= {metric: mean and mean.mean, f"{metric} std": mean and mean.std}
    return row


def chosen_metrics(points: Sequence[Point], asked: Sequence[str] | None) -> list[str]:
    """The figures asked for, or those of the usual ones that are there; else all of the test."""
    names = dict.fromkeys(name for point in points for name in point.metrics)
    if asked is not None:
        if isinstance(asked, int | float | str):
            raise UserError(f"metrics is a list of figures, got {asked!r}: [{next(iter(names))}]")
        for name in asked:
            if name not in names:
                raise UserError(f"No run measured {name}; measured: {', '.join(sorted(names))}")
        return list(asked)
    usual = [name for name in USUAL if name in names]
    usual = usual or [name for name in OF_PICTURES if name in names]
    return usual or [name for name in names if name.startswith("test/")] or list(names)


def _only(only: Mapping[str, object], points: list[Point]) -> list[Point]:
    """The points with these settings; refuses what none of them has."""
    for key, value in only.items():
        wanted = list(map(_plain, value)) if isinstance(value, list) else [value]
        there = dict.fromkeys(p.settings[key] for p in points if p.settings.get(key) is not None)
        if missing := [one for one in wanted if one not in there]:
            choices = ", ".join(map(format_cell, there)) or "none"
            problem = f"only={{{key}:{missing[0]}}} names no point"
            raise UserError(f"{problem}; of {key} there are {choices}")
        points = [point for point in points if point.settings.get(key) in wanted]
    return points


def _by_noise(point: Point) -> Point:
    """The same with how noisy its timestep is in place of the timestep; None where not known."""
    level = point.run.noise_levels.get(point.settings["timestep"])
    rest = {key: value for key, value in point.settings.items() if key != "timestep"}
    return point._replace(settings={**rest, NOISE: level})


def _check_over(over: Sequence[str], points: Sequence[Point]) -> None:
    """Nothing, or a sentence about a setting that none of these runs has."""
    keys = dict.fromkeys(
        key for point in points for key, value in point.settings.items() if value is not None
    )
    if isinstance(over, int | float | str):
        raise UserError(f"over is a list of settings to average over, got {over!r}: over=[seed]")
    for name in over:
        if name not in keys:
            raise UserError(
                f"over={name} is no setting that these runs were given; there are: "
                f"{', '.join(keys)}"
            )


def comparable(
    groups: Mapping[tuple, Sequence[Point]], metrics: list[str], asked: Sequence[str] | None
) -> list[str]:
    """Of these metrics those whose meaning is the same all over each group."""
    of_classes = [name for name in metrics if OF_CLASSES.search(name)]
    for points in groups.values():
        first = points[0].run
        for other in (point.run for point in points):
            if other.class_names == first.class_names or not of_classes:
                continue
            what = (
                f"{', '.join(of_classes)} cannot be compared: class names differ between "
                f"{first.folder} ({first_few(first.class_names) or 'none'}) and {other.folder} "
                f"({first_few(other.class_names) or 'none'})"
            )
            rest = [name for name in metrics if name not in of_classes]
            if asked is not None or not rest:
                raise UserError(f"{what}. Name runs of the same classes in runs=")
            print(f"Left out: {what}")
            return rest
    return metrics


def better(metric: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither."""
    figure = metric.rpartition("/")[2]
    return 0 if figure in NEITHER else -1 if figure in LESS_IS_BETTER else 1


def unit(metric: str) -> str:
    """What a figure counts in; empty where that is not known."""
    return UNITS.get(metric.rpartition("/")[2], "")


def random_of(metric: str) -> str:
    """The figure that says what as many random directions reach, where a test measures it."""
    return f"{metric}_random"


def ordered(value: Value) -> tuple:
    """A key that sorts numbers by size, then words, then lists; none first."""
    if isinstance(value, tuple):
        return (3, *map(ordered, value))
    if value is None or isinstance(value, bool):
        return (0, bool(value))
    return (1, value) if isinstance(value, (int, float)) else (2, value)


def titled(keys: Sequence[str], values: Sequence[Value]) -> str:
    """For a panel or a line: scale=10 seed=1; a key without a value is left out."""
    pairs = zip((key.rpartition(".")[2] for key in keys), values, strict=True)
    return " ".join(f"{key}={format_cell(value)}" for key, value in pairs if value is not None)


def _say_unfinished(folders: Sequence[Path]) -> None:
    if folders:
        print(f"Without results, so left out ({len(folders)}): {', '.join(map(str, folders))}")


def _typed(run: Finished) -> list[str]:
    """The settings that this run was given by hand."""
    keys = [word.partition("@")[0] for word in typed_keys(run.results["overrides"])]
    settings = [key for key in keys if not {key, key.partition(".")[0]} & NEVER]
    return [key for key in settings if not MACHINE.fullmatch(key)]


def _points(run: Finished, keys: Sequence[str]) -> list[Point]:
    """A point a dictionary or cell, which its metrics name, or one of the run."""
    settings = {key: _setting(run, key) for key in keys}
    points: dict[str, Point] = {}
    for name, value in run.results["metrics"].items():
        split, _, rest = name.partition("/")
        part, _, figure = rest.rpartition("/")
        extra = _own_settings(part, run.results["facts"].get("maps") or [])
        part, metric = ("", name) if extra is None else (part, f"{split}/{figure}")
        point = points.setdefault(part, Point({**settings, **(extra or {})}, {}, run))
        if value is not None and math.isfinite(value):
            point.metrics[metric] = value
    return [point for point in points.values() if point.metrics]


def dictionaries_of(metrics: Iterable[str]) -> dict[str, dict[str, Value]]:
    """The own settings of each of several dictionaries, by its name in these figures' names."""
    parts = dict.fromkeys(name.partition("/")[2].rpartition("/")[0] for name in metrics)
    settings = {part: _own_settings(part, ()) or {} for part in parts if part}
    return {
        part: each for part, each in settings.items() if any(key.startswith("sae.") for key in each)
    }


def own_figures(metrics: Mapping[str, float | None], name: str) -> dict[str, float]:
    """What was measured of one of several dictionaries, named as that of a single one is."""
    figures = {}
    for key, value in metrics.items():
        split, _, rest = key.partition("/")
        whose, _, figure = rest.rpartition("/")
        if whose == name and value is not None:
            figures[f"{split}/{figure}"] = value
    return figures


def _own_settings(part: str, maps: Sequence[str]) -> dict[str, Value] | None:
    """What a part of a metric's name says: scale10_k32, or t0150-b06; None where it is no such.

    `maps`: the names of the run's feature maps, among which a block without timestep is known.
    """
    if stream := STREAM.fullmatch(part):
        step, number, other_step, name = stream.groups()
        step = step or other_step
        block = int(number) if number else name
        return {"timestep": None if step is None else int(step), "block": block}
    if part in maps:
        return {"timestep": None, "block": part}
    words = [LISTED.fullmatch(word) for word in part.split("_")] if part else [None]
    if not all(words):
        return None
    return {f"sae.{w[1]}": _number(w[2].replace("p", ".")) for w in words}


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _setting(run: Finished, key: str) -> Value:
    """The run's value of a setting: by its config, by the word typed, or none.

    Weights that a training kept by their step are its folder in backbone.checkpoint, and the step
    in backbone.step; of samples it is the step of the weights that have drawn them.
    """
    if key == "backbone.step":
        steps = (checkpoint_step(_setting_as_said(run, place)) for place in BY_STEP)
        return next((step for step in steps if step is not None), None)
    value = _setting_as_said(run, key)
    if key in BY_STEP and checkpoint_step(value) is not None:
        return str(Path(value).parent)
    return value


def _setting_as_said(run: Finished, key: str) -> Value:
    """By its config, by the word typed, or none."""
    node: object = run.results["config"]
    for part in key.split("."):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    if node == {}:
        overrides = (word.lstrip("+").partition("=") for word in run.results["overrides"])
        return next((value for name, _, value in overrides if name == key), None)
    if isinstance(node, dict):
        choice = run.results["choices"].get(key)
        return node.get("name") or choice or node.get("_target_", "").rpartition(".")[2] or None
    return _plain(node)


def _plain(value: object) -> Value:
    return tuple(map(_plain, value)) if isinstance(value, list) else value
