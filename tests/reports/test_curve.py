"""Curves: points at their numbers, a line for each other choice, and refusals of axes."""

import pytest
from PIL import Image

from diffdict.errors import UserError
from diffdict.reports.curve import Axis, Curve, _ticks
from diffdict.reports.drawing.canvas import LINES
from diffdict.reports.runs.folders import find_runs


@pytest.fixture
def labels(sweep):
    """Two ways to segment, from 5 to 200 labelled pictures."""
    return sweep(
        *(
            {"model": model, "data.pictures": n, "seed": seed, "test/miou": gain * n + seed / 100}
            for model, gain in (("a", 0.001), ("b", 0.002))
            for n in (5, 50, 200)
            for seed in (0, 1)
        )
    )


def test_a_line_for_each_choice(labels, tmp_path):
    made = Curve(tmp_path, "data.pictures").collect(find_runs(str(labels)))
    assert [(row["model"], row["data.pictures"], row["n"]) for row in made.rows] == [
        *(("a", n, 2) for n in (5, 50, 200)),
        *(("b", n, 2) for n in (5, 50, 200)),
    ]
    assert made.rows[2]["test/miou"] == pytest.approx(0.205)
    picture = Image.open(made.picture).convert("RGB")
    counts = {colour: count for count, colour in picture.getcolors(1 << 20)}
    for colour in LINES[:2]:
        assert counts[colour] > 50, "a line across the plot"
    assert LINES[2] not in counts


def test_numbers_that_span_decades_are_spread_by_logarithm():
    plain, spread = Axis(1.0, 100.0, 100), Axis(1.0, 100.0, 100, logarithmic=True)
    assert (plain.at(1.0), plain.at(100.0), plain.at(50.5)) == (0, 100, 50)
    assert (spread.at(1.0), spread.at(100.0)) == (0, 100)
    assert spread.at(10.0) == pytest.approx(50)
    assert Axis(3.0, 3.0, 100).at(3.0) == 50


@pytest.mark.parametrize(
    "values", [(0.41, 0.46), (0.0, 0.0), (-3.0, 7.0), (1e-6, 3e-6), (12000.0, 99000.0)]
)
def test_ticks_are_round_and_hold_all(values):
    ticks = _ticks(values)
    assert ticks[0] <= min(values) <= max(values) <= ticks[-1]
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (None, r"report=curve needs x=.*vary between these runs: seed, data\.pictures"),
        ("model", "x=model is no number that varies"),
        ("sae.k", "x=sae.k is no number that varies"),
    ],
)
def test_the_axis_is_a_number_that_varies(labels, tmp_path, x, said):
    with pytest.raises(UserError, match=said):
        Curve(tmp_path, x).collect(find_runs(str(labels)))
