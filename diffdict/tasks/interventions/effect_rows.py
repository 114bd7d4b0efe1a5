"""Rows of the table `effects`: what became of each class under its change and every control."""

from collections.abc import Mapping, Sequence

from diffdict.metrics.attributes.rank_correlation import spearman
from diffdict.metrics.effects import ELSEWHERE, FEWEST, INSIDE, EffectCounts, rank_share
from diffdict.metrics.losses.damage import DamageFigures
from diffdict.tasks.interventions.changes import Change

OWN, DIRECTION, OTHERS, EQUAL = "latents", "direction", "others", "others_equal"
DIFFERENCE, AGAIN = "difference", "reconstruction"
EDITS = (OWN, DIRECTION, OTHERS, EQUAL, DIFFERENCE, AGAIN)  # in this order
FIGURES = ("kept", "error", "area", "outside", "rms", "rms_inside", "rms_outside")


def change_rows(
    change: Change,
    found: Mapping[str, EffectCounts],
    class_names: Sequence[str],
    damage: Mapping[str, DamageFigures],
) -> list[dict]:
    """A row for the latents, and one for each control; directions are one row, their mean."""
    label = class_names.index(change.concept)
    draws = [counts for kind, counts in found.items() if kind.startswith(DIRECTION)]
    rows = []
    for kind in EDITS:
        several = draws if kind == DIRECTION else [found[k] for k in [kind] if k in found]
        if not several:
            continue
        row = {"class": change.concept, "edit": kind, "amount": change.amount}
        row |= {"span": change.window, **figures_of(several, label, class_names)}
        hurt = [
            figures
            for name, figures in damage.items()
            if name.rpartition("_")[0] == kind == DIRECTION
        ]
        hurt = hurt or [damage[k] for k in [kind] if k in damage]
        if hurt and row["kept"] is not None:
            row["damage"] = sum(each.share for each in hurt) / len(hurt)
        if kind == OWN and row["kept"] is not None:
            row["p"] = rank_share(1 - row["kept"], [1 - each.kept(label) for each in draws])
        rows.append(row)
    return rows


def figures_of(
    several: Sequence[EffectCounts], label: int, class_names: Sequence[str]
) -> dict[str, object]:
    """The mean figures of one edit, or of several draws; None with too few pictures."""
    pictures = several[0].pictures
    if pictures < FEWEST:
        return {"pictures": pictures, **dict.fromkeys(FIGURES), "became": None}

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    became = several[0].became(label)
    return {
        "pictures": pictures,
        "kept": mean([each.kept(label) for each in several]),
        "error": mean([each.error(label) for each in several]),
        "area": mean([each.area(label) for each in several]),
        "outside": mean([each.outside for each in several]),
        "rms": mean([each.rms for each in several]),
        "rms_inside": mean([each.zone_rms(INSIDE) for each in several]),
        "rms_outside": mean([each.zone_rms(ELSEWHERE) for each in several]),
        "became": ", ".join(f"{class_names[other]} {share:.2f}" for other, share in became),
    }


def strongest_first(rows: Sequence[dict]) -> list[dict]:
    """Classes of the largest effect above; a class without figures comes last."""
    shares = {(row.get("judge"), *place_of(row)): row["kept"] for row in rows if row["edit"] == OWN}

    def strength(row: dict) -> tuple:
        share = shares[(row.get("judge"), *place_of(row))]
        return str(row.get("judge") or ""), 2.0 if share is None else share

    shown = [{**row, "window": spoken(row["span"])} for row in sorted(rows, key=strength)]
    return [{key: value for key, value in row.items() if key != "span"} for row in shown]


def rankings(judged: Sequence[Sequence[dict]]) -> list[dict]:
    """The effect on each class as several judges see it, the strongest of the first one above."""
    rows = {}
    for number, table in enumerate(judged, 1):
        for row in table:
            if row["edit"] == OWN and row["kept"] is not None:
                rows.setdefault(row["class"], {"class": row["class"]})
                rows[row["class"]][f"effect_{number}"] = 1 - row["kept"]
    keys = [f"effect_{number}" for number in range(1, len(judged) + 1)]
    whole = [{**dict.fromkeys(["class", *keys]), **row} for row in rows.values()]
    return sorted(whole, key=lambda row: -(row[keys[0]] or 0.0))


def agreement_of(rows: Sequence[dict]) -> float:
    """Spearman's correlation of the first two judges over the classes that both have seen."""
    both = [row for row in rows if None not in (row["effect_1"], row["effect_2"])]
    return spearman(*([row[key] for row in both] for key in ("effect_1", "effect_2")))


def place_of(row: Mapping) -> tuple:
    """Which change a row is of."""
    return row["class"], row["amount"], str(row["span"])


def spoken(window: Sequence | None) -> str | None:
    """A window as it stands in a table."""
    return None if window is None else f"{window[0]}-{window[1]}"
