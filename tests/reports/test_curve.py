"""Curves: points at their numbers, a line for each other choice, and refusals of axes."""

from itertools import pairwise
from unittest.mock import Mock

import pytest

from diffdict.errors import UserError
from diffdict.reports import curve
from diffdict.reports.curve import TALL, Curve
from diffdict.reports.drawing.chart import LINES
from diffdict.results.folders import find_runs


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


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    write = Mock(wraps=curve.write_chart)
    monkeypatch.setattr(curve, "write_chart", write)
    return lambda: [call.args[0] for call in write.call_args_list]


def test_a_line_for_each_choice(labels, tmp_path, drawn):
    made = Curve(tmp_path, "data.pictures").collect(find_runs(str(labels)))
    assert [(row["model"], row["data.pictures"], row["n"]) for row in made.rows] == [
        *(("a", n, 2) for n in (5, 50, 200)),
        *(("b", n, 2) for n in (5, 50, 200)),
    ]
    assert made.rows[2]["test/miou"] == pytest.approx(0.205)
    assert sorted(path.name for path in tmp_path.glob("curve.*")) == [
        *("curve.csv", "curve.png", "curve.svg")
    ]
    (figure,) = drawn()
    (axes,) = figure.axes
    for bars, gain, colour in zip(axes.containers, (0.001, 0.002), LINES[:2], strict=True):
        line, _, (spread,) = bars
        assert line.get_xdata().tolist() == [5, 50, 200]
        assert line.get_ydata().tolist() == pytest.approx([gain * n + 0.005 for n in (5, 50, 200)])
        assert line.get_color() == colour
        for (_, low), (_, high) in spread.get_segments():
            assert high - low == pytest.approx(2 * 0.01 / 2**0.5), "one deviation each way"
    assert (axes.get_xlabel(), axes.get_xscale()) == ("data.pictures", "log")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["5", "50", "200"]
    assert axes.get_title(loc="left") == "test/miou · 0 to 1, mean of the classes"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["model=a", "model=b"]
    assert legend.get_title().get_text() == "bars: ± one standard deviation over seed"


def test_one_seed_has_no_bars_and_one_choice_no_legend(sweep, tmp_path, drawn):
    jobs = [{"sae.k": k, "test/fvu": 1 / k} for k in (8, 16)]
    Curve(tmp_path, "sae.k").collect(find_runs(str(sweep(*jobs))))
    (figure,) = drawn()
    (bars,) = figure.axes[0].containers
    assert not bars.has_yerr
    assert figure.legends == []
    assert figure.axes[0].get_xscale() == "linear"


def test_random_directions_are_dotted(sweep, tmp_path, drawn):
    jobs = [{"sae.k": k, "test/iou": k / 100, "test/iou_random": k / 200} for k in (8, 16)]
    Curve(tmp_path, "sae.k", ["test/iou"]).collect(find_runs(str(sweep(*jobs))))
    (axes,) = drawn()[0].axes
    (dotted,) = (line for line in axes.lines if line.get_linestyle() == ":")
    assert dotted.get_xydata().tolist() == [[8, 0.04], [16, 0.08]]
    (legend,) = drawn()[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["dotted: as many random directions"]


def test_numbers_that_would_be_written_over_each_other_are_left_out(sweep, tmp_path, drawn):
    jobs = [{"data.pictures": n, "test/miou": 0.5} for n in range(1, 41)]
    Curve(tmp_path, "data.pictures").collect(find_runs(str(sweep(*jobs))))
    (axes,) = drawn()[0].axes
    boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert len(boxes) > 5
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_more_choices_than_colours_differ_in_their_markers(sweep, tmp_path, drawn):
    jobs = [
        {"model.lr": lr, "sae.k": k, "test/fvu": lr} for lr in range(len(LINES) + 1) for k in (8, 9)
    ]
    Curve(tmp_path, "sae.k").collect(find_runs(str(sweep(*jobs))))
    lines = [bars[0] for bars in drawn()[0].axes[0].containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(LINES) + 1


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


def checkpoints(sweep, name, steps=(200, 400), **more):
    """The jobs of checkpoints=: two blocks of a network at each step of its training."""
    jobs = [
        {
            "backbone.checkpoint": f"runs/{name}/step={step}.ckpt",
            "test/t0011-b01/accuracy": step / 1000,
            "test/t0011-b02/accuracy": step / 2000,
        }
        for step in steps
    ]
    return str(sweep(*jobs, name=name, task="probe_sweep", **more))


def test_checkpoints_of_a_training_lie_along_its_steps(sweep, tmp_path, drawn):
    made = Curve(tmp_path, "backbone.step").collect(find_runs(checkpoints(sweep, "ddae")))
    assert [(row["block"], row["backbone.step"], row["test/accuracy"]) for row in made.rows] == [
        *((1, 200, 0.2), (1, 400, 0.4), (2, 200, 0.1), (2, 400, 0.2))
    ]
    (legend,) = drawn()[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["block=1", "block=2"]


def test_two_trainings_are_told_apart_by_their_folders(sweep, tmp_path, drawn):
    both = [checkpoints(sweep, "ddae"), checkpoints(sweep, "edm", steps=(100, 300))]
    Curve(tmp_path, "backbone.step", only={"block": 2}).collect(find_runs(both))
    (legend,) = drawn()[0].legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["checkpoint=runs/ddae", "checkpoint=runs/edm"]


def test_a_line_without_any_of_the_settings_has_a_name_too(sweep, tmp_path, drawn):
    jobs = [{"sae.k": k, "test/fvu": 1 / k} for k in (8, 16)]
    both = [str(sweep(*jobs)), str(sweep(*({**job, "model.lr": 1e-3} for job in jobs), name="b"))]
    Curve(tmp_path, "sae.k").collect(find_runs(both))
    (legend,) = drawn()[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["lr=none", "lr=0.001"]


@pytest.mark.parametrize("letters", [4, 150])
def test_no_word_of_a_legend_is_cut(sweep, tmp_path, drawn, letters):
    names = [f"{letter * letters}{number:02d}" for letter in "MiW" for number in range(12)]
    jobs = [{"model": name, "sae.k": k, "test/fvu": 1 / k} for name in names for k in (8, 16)]
    Curve(tmp_path, "sae.k").collect(find_runs(str(sweep(*jobs))))
    (legend,) = drawn()[0].legends
    assert len(legend.get_texts()) == 36
    box, page = legend.get_window_extent(), drawn()[0].bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    (axes,) = drawn()[0].axes
    assert box.y1 < axes.get_window_extent().y0
    assert axes.get_window_extent().height > 0.6 * TALL * drawn()[0].dpi


def test_no_two_lines_of_fifty_look_alike(sweep, tmp_path, drawn):
    jobs = [{"sae.scale": s, "sae.k": k, "test/fvu": s / k} for s in range(50) for k in (8, 16)]
    Curve(tmp_path, "sae.k").collect(find_runs(str(sweep(*jobs))))
    (axes,) = drawn()[0].axes
    lines = [bars.lines[0] for bars in axes.containers]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(lines) == 50


def test_what_is_drawn_can_be_chosen(sweep, tmp_path, drawn):
    runs = find_runs(checkpoints(sweep, "ddae"))
    made = Curve(tmp_path, "backbone.step", only={"block": [1], "seed": 0}).collect(runs)
    assert [row["test/accuracy"] for row in made.rows] == [0.2, 0.4]
    said = r"only=\{block:3\} names no point; of block there are 1, 2"
    with pytest.raises(UserError, match=said):
        Curve(tmp_path, "backbone.step", only={"block": 3}).collect(runs)


@pytest.fixture
def noisy(sweep):
    """A chain and EDM's levels, whose cells say how noisy their timesteps are."""

    def write(name, sigmas):
        metrics = {f"test/t{t:04d}-b02/accuracy": 1 - sigma for t, sigma in sigmas.items()}
        cells = [{"timestep": t, "block": 2, "sigma": sigma} for t, sigma in sigmas.items()]
        return sweep({"model": name, **metrics}, name=name, task="probe_sweep", cells=cells)

    return [
        str(write("ddpm", {1: 0.01, 11: 0.047, 201: 0.724})),
        str(write("edm", {3: 0.0229, 4: 0.06})),
    ]


def test_timesteps_of_all_networks_lie_along_their_noise(noisy, tmp_path, drawn):
    made = Curve(tmp_path, "sigma").collect(find_runs(noisy))
    assert [(row["model"], row["sigma"]) for row in made.rows] == [
        *(("ddpm", 0.01), ("ddpm", 0.047), ("ddpm", 0.724), ("edm", 0.0229), ("edm", 0.06))
    ]
    assert all(row["test/accuracy"] == pytest.approx(1 - row["sigma"]) for row in made.rows)
    (axes,) = drawn()[0].axes
    assert (axes.get_xlabel(), axes.get_xscale()) == ("sigma", "log")
    assert len(axes.containers) == 2


def test_noise_that_nobody_has_said_is_no_axis(labels, tmp_path):
    with pytest.raises(UserError, match=r"x=sigma is the noise of a timestep, and it is not known"):
        Curve(tmp_path, "sigma").collect(find_runs(str(labels)))
