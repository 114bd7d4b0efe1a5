"""Charts of effects and of what predicts them, out of finished runs."""

import json

import pytest

from diffdict.errors import UserError
from diffdict.metrics.attributes.rank_correlation import spearman
from diffdict.reports.causality import (
    CausalityCharts,
    correlations,
    draw_effects,
    draw_predictors,
)
from diffdict.results.folders import find_runs

PAIRS = [
    {
        "class": name,
        "latent": i,
        "iou": 0.1 * (3 - i),
        "excess": i + 0.5,
        "average_precision": 0.1 * i,
        "one_pass": 0.2 * i,
    }
    for name in ("nose", "mouth")
    for i in range(4)
]
EFFECTS = [
    {"class": name, "edit": edit, "amount": -2.0, "window": None, "kept": kept, "error": 0.1}
    for name in ("nose", "mouth")
    for edit, kept in (("latents", 0.2), ("direction", 0.6), ("others", None))
]


def finished(folder, task, **tables):
    folder.mkdir(parents=True)
    facts = {"format": 1, "task": task, "tables": tables, "facts": {}}
    (folder / "results.json").write_text(json.dumps(facts))
    return str(folder)


def test_predictors_are_held_against_the_effect_of_every_pair(tmp_path, capsys):
    runs = find_runs([finished(tmp_path / "a", "screening", latents=PAIRS)])
    made = CausalityCharts(tmp_path / "out").collect(runs)
    assert [row["predictor"] for row in made.rows] == ["iou", "excess", "average_precision"]
    assert [row["within_classes"] for row in made.rows] == pytest.approx([-1, 1, 1])
    assert {"predictors.png", "predictors.svg", "predictors.csv"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "predictors.png" in capsys.readouterr().out
    axes = draw_predictors(PAIRS).axes
    points = [len(part.get_offsets()) for part in axes[0].collections]
    assert points == [4, 4]


def test_chains_are_what_is_predicted_where_they_were_drawn():
    rows = [{**row, "chain": 1 - row["one_pass"]} for row in PAIRS]
    found = {row["predictor"]: row for row in correlations(rows)}
    assert found["one_pass"]["spearman"] == pytest.approx(-1)
    values = [row["excess"] for row in rows], [row["chain"] for row in rows]
    assert found["excess"]["spearman"] == pytest.approx(spearman(*values))


def test_effects_stand_beside_their_controls(tmp_path):
    runs = find_runs([finished(tmp_path / "b", "causality", effects=EFFECTS)])
    made = CausalityCharts(tmp_path / "out").collect(runs)
    assert made.picture == tmp_path / "out/effects.png"
    (axes,) = draw_effects(EFFECTS).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["nose", "mouth"]
    assert len(axes.containers) == 2, "others have no figures"


def test_other_runs_are_refused(tmp_path):
    runs = find_runs([finished(tmp_path / "c", "sae")])
    with pytest.raises(UserError, match="shows runs of task=screening and task=causality"):
        CausalityCharts(tmp_path / "out").collect(runs)
    assert not (tmp_path / "out").exists()
