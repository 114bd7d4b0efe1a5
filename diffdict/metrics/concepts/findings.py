"""All that is known of one dictionary's concepts after a test on labelled pictures."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.metrics.concepts.activations import ActivationHistogram
from diffdict.metrics.concepts.assignment import NONE, Choice, Report, best_class
from diffdict.metrics.concepts.overlap import Counts, fit
from diffdict.metrics.concepts.ranking import Ranking, average_precision
from diffdict.metrics.features.timestep_parts import in_one_timestep, share_columns

Cell = str | int | float | bool | None
BASELINES = ("random", "permuted", "channels", "pca")


class Together(NamedTuple):
    """A few latents that are taken for one class."""

    latents: list[int]  # in the order in which they came in
    iou_train: float  # of their areas together; nan where the class is absent
    iou_test: float


class Findings(NamedTuple):
    """Latents and thresholds are chosen on the training pictures; `test` figures are of others."""

    class_names: tuple[str, ...]
    thresholds: Float[Tensor, "latents thresholds"]  # pre-activations; column 0 the floors
    ranked: int | None  # if set, only the k largest latents are active at a pixel
    train: Counts
    test: Counts
    best: Report  # for each class its best latent, at that latent's best threshold
    zero: Report  # the same where every latent is active above 0: the original's protocol
    matched: Report  # as `best`, but no latent for two classes
    second: Choice  # the runners-up of `best`
    unions: list[Together]  # class by class
    activity: ActivationHistogram  # on the tokens of the test pictures
    ranking: Ranking  # by average precision on tokens
    baselines: dict[str, Report]  # random, permuted, channels, pca: what is found without learning
    excess: list[list[int]]  # class by class: latents stronger inside than everywhere, on training
    shares: Mapping[int, Float[Tensor, " latents"]] = MappingProxyType({})  # of rows, by timestep

    @property
    def figures(self) -> dict[str, float]:
        """Means over the classes that training and test pictures have; IoU unless it says else."""
        present = ~(self.best.train.iou.isnan() | self.best.test.iou.isnan())
        united = torch.tensor([union.iou_test for union in self.unions], dtype=torch.float64)
        values = {
            "iou": self.best.mean_test.iou,
            "iou_train": self.best.mean_train.iou,
            "iou_zero": self.zero.mean_test.iou,
            "iou_matched": self.matched.mean_test.iou,
            "iou_union": united[present.cpu()].mean(),
            **{f"iou_{name}": baseline.mean_test.iou for name, baseline in self.baselines.items()},
            "map": self.ranking.mean,
            "purity": self.ranking.mean_purity,
            "coverage": self.ranking.coverage(),
        }
        if self.shares:
            values["one_timestep"] = in_one_timestep(self.shares)
        return {name: float(value) for name, value in values.items()}


def findings_tables(found: Mapping[str, Findings]) -> dict[str, list[dict[str, Cell]]]:
    """The rows of each dictionary's classes and latents; of several, with its name."""
    tables: dict[str, list[dict[str, Cell]]] = {}
    for name, findings in found.items():
        name_column = {"dictionary": name} if len(found) > 1 else {}
        for table, rows in (("classes", class_rows), ("latents", latent_rows)):
            tables.setdefault(table, []).extend(name_column | row for row in rows(findings))
    return tables


def class_rows(findings: Findings) -> list[dict[str, Cell]]:
    """A row a class: its latents, and how well they fit it on the test's pictures."""
    rows = []
    for i, name in enumerate(findings.class_names):
        best, union = findings.best.rows[i], findings.unions[i]
        row = {
            "class": name,
            "absent": ", ".join(_lacking(findings, name)) or None,
            "latent": _named(best.latent),
            "threshold": _threshold(findings, best.latent, best.threshold),
            **best.test._asdict(),
            **{f"{key}_train": value for key, value in best.train._asdict().items()},
            "iou_zero": float(findings.zero.test.iou[i]),
            "second": _named(int(findings.second.latents[i])),
            "matched": _named(int(findings.matched.choice.latents[i])),
            "iou_matched": float(findings.matched.test.iou[i]),
            "union": " ".join(map(str, union.latents)),
            "iou_union": union.iou_test,
            "iou_union_train": union.iou_train,
        }
        for key in BASELINES:
            baseline = findings.baselines.get(key)
            row[f"iou_{key}"] = math.nan if baseline is None else float(baseline.test.iou[i])
        ranking = findings.ranking
        row |= {
            "ranked_latent": int(ranking.latents[i]),
            "average_precision": float(ranking.test[i]),
            "purity": float(ranking.purity[i]),
            "excess": " ".join(map(str, findings.excess[i])),
            **share_columns(findings.shares, _named(best.latent)),
        }
        rows.append({key: float(x) if isinstance(x, Tensor) else x for key, x in row.items()})
    return rows


def latent_rows(findings: Findings) -> list[dict[str, Cell]]:
    """A row a latent: how often it is active, and the class that it fits best."""
    best = best_class(findings.train)
    label = best.classes.clamp(min=0)
    latent = torch.arange(len(label), device=label.device)
    both = findings.test.intersections[best.thresholds, label, latent]
    active = findings.test.active[best.thresholds, latent]
    iou = fit(both, active, findings.test.pixels[label]).iou
    precision = average_precision(findings.test)[label, latent]
    columns = {
        "latent": latent,
        "density": findings.activity.density,
        "activation": findings.activity.mean,
        "threshold": findings.thresholds[latent, best.thresholds],
        "iou": iou,
        "iou_train": best.score,
        "average_precision": precision,
    }
    lines = zip(best.classes.tolist(), *(each.tolist() for each in columns.values()), strict=True)
    rows = []
    for number, *values in lines:
        class_name = None if number == NONE else findings.class_names[number]
        row = dict(zip(columns, values, strict=True))
        unfit = {} if class_name else {"threshold": None, "iou": None, "average_precision": None}
        shares = share_columns(findings.shares, int(row["latent"]))
        rows.append({"latent": row["latent"], "class": class_name, **row, **unfit, **shares})
    return rows


def _lacking(findings: Findings, name: str) -> list[str]:
    """The splits that have no pixel of a class."""
    splits = {"train": findings.best.absent_train, "test": findings.best.absent_test}
    return [split for split, absent in splits.items() if name in absent]


def _named(latent: int) -> int | None:
    return None if latent == NONE else latent


def _threshold(findings: Findings, latent: int, place: int) -> float | None:
    return None if latent == NONE else float(findings.thresholds[latent, place])
