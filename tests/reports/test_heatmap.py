"""Heat maps: every cell where it belongs, means over seeds, the best one framed and named."""

import csv
import math
import subprocess
import sys
from itertools import product
from unittest.mock import Mock

import pytest

from diffdict.errors import UserError
from diffdict.reports import heatmap
from diffdict.reports.heatmap import Heatmap, brief
from diffdict.reports.sweeps.points import points_of, varying
from diffdict.results.folders import find_runs


def rows(folder):
    with (folder / "heatmap.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_becomes_maps_of_timestep_and_block(sweep, tmp_path, capsys):
    folder = sweep(
        *(
            {
                "timestep": timestep,
                "block": block,
                "seed": seed,
                "test/scale10/fvu": timestep / 1000 + block / 10 + seed / 100,
                "test/scale20/fvu": timestep / 2000 + block / 10,
                "test/scale20/l0": 32.0,
            }
            for timestep, block, seed in product((50, 150), (4, 12), (0, 1))
        )
    )
    made = Heatmap(tmp_path / "out").collect(find_runs(str(folder)))
    found = {(row["sae.scale"], row["timestep"], row["block"]): row for row in made.rows}
    assert len(found) == len(made.rows) == 8
    cell = found[10, 150, 12]
    assert (cell["n"], cell["test/fvu"]) == (2, pytest.approx(0.15 + 1.2 + 0.005))
    assert cell["test/fvu std"] == pytest.approx(math.sqrt(2 * 0.005**2))
    assert cell["test/l0"] is None
    assert found[20, 50, 4]["test/l0"] == 32
    assert rows(tmp_path / "out")[0]["test/fvu"] == str(made.rows[0]["test/fvu"])
    said = capsys.readouterr().out
    best = [line.split() for line in said.splitlines() if "scale=10" in line]
    assert best == [["test/fvu", "scale=10", "50", "4", "0.455", "±", "0.0071"]]
    assert "test/l0" not in said.replace("heatmap", ""), "no number of active latents is best"


def cells(axes):
    """What is written in a panel: {(timestep, block): text}, by the words beside it."""
    columns, rows = (
        [text.get_text() for text in one] for one in (labels(axes.xaxis), labels(axes.yaxis))
    )
    places = {text.get_position(): text.get_text() for text in axes.texts}
    return {(columns[int(x)], rows[int(y)]): said for (x, y), said in places.items()}


def labels(axis):
    return [tick.label1 for tick in axis.get_major_ticks()]


def marked(axes, hatched):
    """Where the rectangles are that a panel draws over its map."""
    patches = (each for each in axes.patches if bool(each.get_hatch()) == hatched)
    return {(int(each.get_x()), int(each.get_y())) for each in patches}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    write = Mock(wraps=heatmap.write_chart)
    monkeypatch.setattr(heatmap, "write_chart", write)
    return lambda: [call.args[0] for call in write.call_args_list]


def test_the_chart_shows_each_cell_frames_the_best_and_hatches_what_is_missing(
    sweep, tmp_path, drawn
):
    values = {(10, 1): 0.1, (10, 2): 0.5, (200, 1): 0.4}
    folder = sweep(*({"timestep": t, "block": b, "test/iou": v} for (t, b), v in values.items()))
    Heatmap(tmp_path / "out").collect(find_runs(str(folder)))
    (figure,) = drawn()
    panel, bar = figure.axes
    assert cells(panel) == {("10", "1"): "0.100", ("10", "2"): "0.500", ("200", "1"): "0.400"}
    (mesh,) = panel.collections
    assert mesh.get_array()[:, 0].tolist() == [0.1, 0.5]
    assert mesh.get_clim() == (0.1, 0.5)
    assert marked(panel, hatched=False) == {(0, 1)}, "the best cell is framed"
    assert marked(panel, hatched=True) == {(1, 1)}
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("timestep", "block")
    (part,) = figure.subfigs
    assert part.get_suptitle() == "test/iou · 0 to 1, mean of the classes · more is better"
    assert not [*bar.texts, *bar.lines], "no random directions were measured"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("heatmap.csv", "heatmap.png", "heatmap.svg")
    }


def test_seeds_give_deviations_and_random_directions_a_mark(sweep, tmp_path, drawn):
    jobs = [
        {"timestep": t, "seed": seed, "test/iou": 0.3 + seed / 50, "test/iou_random": t / 1000}
        for t in (100, 200)
        for seed in (0, 1)
    ]
    Heatmap(tmp_path).collect(find_runs(str(sweep(*jobs))))
    panel, bar = drawn()[0].axes
    assert set(cells(panel).values()) == {"0.310\n± 0.01"}
    assert [text.get_text() for text in bar.texts] == ["random\n0.150"]
    assert list(bar.lines[0].get_ydata()) == pytest.approx([0.15, 0.15])
    assert panel.collections[0].get_clim() == pytest.approx((0.15, 0.31)), "the mark lies on it"


def test_the_best_is_bright_also_where_less_is_better(sweep, tmp_path, drawn):
    folder = sweep({"block": 1, "test/fvu": 0.2}, {"block": 2, "test/fvu": 0.1})
    Heatmap(tmp_path).collect(find_runs(str(folder)))
    mesh = drawn()[0].axes[0].collections[0]
    best, worst = (sum(mesh.to_rgba(value)[:3]) for value in (0.1, 0.2))
    assert best > worst


def test_a_figure_that_is_the_same_everywhere_has_one_tick(sweep, tmp_path, drawn):
    folder = sweep({"block": 1, "test/l0": 32.0}, {"block": 2, "test/l0": 32.0})
    Heatmap(tmp_path).collect(find_runs(str(folder)))
    panel, bar = drawn()[0].axes
    assert set(cells(panel).values()) == {"32"}
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["32"]


def test_less_is_better_where_it_is(sweep, tmp_path, capsys):
    folder = sweep({"block": 1, "test/fvu": 0.2}, {"block": 2, "test/fvu": 0.1})
    Heatmap(tmp_path).collect(find_runs(str(folder)))
    line = next(line for line in capsys.readouterr().out.splitlines() if "test/fvu" in line)
    assert line.split() == ["test/fvu", "50", "2", "0.1"]


def test_panels_differ_in_what_was_typed_and_in_nothing_that_follows(sweep):
    folder = sweep(
        {"sae": "topk", "model.lr": 0.1, "trainer.devices": 1, "logger": "csv", "test/fvu": 1.0},
        {"sae": "relu", "model.lr": 0.1, "trainer.devices": 2, "logger": "none", "test/fvu": 1.0},
        {"sae": "relu", "model.lr": 0.2, "test/fvu": 1.0},
    )
    assert varying(points_of(find_runs(str(folder)))) == ["sae", "model.lr"]


def test_cells_of_one_run_are_points_too(sweep, tmp_path):
    cells = {"test/t0050-b03/miou": 0.1, "test/t0050-b12/miou": 0.2, "test/t0250-b03/miou": 0.3}
    folder = sweep({**cells, "test/t0250-b12/miou": 0.4}, task="probe_sweep")
    made = Heatmap(tmp_path).collect(find_runs(str(folder)))
    assert [(r["timestep"], r["block"], r["test/miou"]) for r in made.rows] == [
        (50, 3, 0.1),
        (50, 12, 0.2),
        (250, 3, 0.3),
        (250, 12, 0.4),
    ]


def test_figures_of_whole_pictures_are_the_usual_ones_where_there_are_no_others(sweep, tmp_path):
    cells = {"test/t0010-b01/accuracy": 0.5, "test/t0010-b02/accuracy": 0.7}
    chance = {f"{name}_random": 0.1 for name in cells}
    folder = sweep({**cells, **chance, "test/chosen": 0.7}, task="linear_probe")
    made = Heatmap(tmp_path).collect(find_runs(str(folder)))
    figures = [name for name in made.rows[0] if name.startswith("test/")]
    assert figures == ["test/accuracy", "test/accuracy std"]
    assert [(row["block"], row["test/accuracy"]) for row in made.rows] == [(1, 0.5), (2, 0.7)]


def test_blocks_may_have_names_and_timesteps_be_absent(sweep, tmp_path):
    cells = {"test/b03/miou": 0.1, "test/layer1.0/miou": 0.2, "test/t0050-layer2/miou": 0.3}
    folder = sweep(cells, task="probe_sweep", maps=["b03", "layer1.0", "t0050-layer2"])
    made = Heatmap(tmp_path).collect(find_runs(str(folder)))
    assert {(r["timestep"], r["block"]) for r in made.rows} == {
        (None, 3),
        (None, "layer1.0"),
        (50, "layer2"),
    }


def test_what_ran_again_counts_once(sweep, tmp_path):
    jobs = [{"block": 1, "test/fvu": 0.2}, {"block": 1, "test/fvu": 0.1}]
    made = Heatmap(tmp_path).collect(find_runs(str(sweep(*jobs))))
    assert [(row["n"], row["test/fvu"]) for row in made.rows] == [(1, 0.1)]


def test_what_is_no_number_is_no_cell(sweep, tmp_path):
    jobs = [{"block": 1, "test/iou": None}, {"block": 2, "test/iou": 0.1}]
    made = Heatmap(tmp_path).collect(find_runs(str(sweep(*jobs))))
    assert [(row["block"], row["test/iou"]) for row in made.rows] == [(2, 0.1)]


def test_runs_of_other_tasks_and_failed_ones_are_said(sweep, tmp_path, capsys):
    folder = sweep({"block": 1, "test/fvu": 0.2}, {"block": 2, "test/fvu": 0.1})
    sweep({"test/loss": 0.2}, task="diffusion", name="sweep/other")
    (folder / "failed/.hydra").mkdir(parents=True)
    runs = find_runs(str(folder))
    made = Heatmap(tmp_path / "out").collect(runs)
    assert len(made.rows) == 2
    said = capsys.readouterr().out
    assert "Left out: 1 of task=diffusion; shown is task=sae" in said
    assert f"Without results, so left out (1): {folder}/failed" in said
    other = Heatmap(tmp_path / "out", task="diffusion").collect(runs)
    assert [row["test/loss"] for row in other.rows] == [0.2]
    with pytest.raises(UserError, match="No run of task=deeplab is under runs=, only diffusion"):
        Heatmap(tmp_path / "out", task="deeplab").collect(runs)


def test_class_names_that_differ_rule_out_figures_of_classes(sweep, tmp_path, capsys):
    jobs = [{"block": 1, "test/iou": 0.2, "test/fvu": 0.2}]
    one = sweep(*jobs, classes=("sky", "sea"), name="one")
    other = sweep({**jobs[0], "block": 2}, classes=("sky", "land"), name="other")
    runs = find_runs([str(one), str(other)])
    made = Heatmap(tmp_path).collect(runs)
    assert {key for row in made.rows for key in row if "/" in key} == {"test/fvu", "test/fvu std"}
    assert "test/iou cannot be compared: class names differ" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"class names differ between .* \(sky, sea\).*land"):
        Heatmap(tmp_path, metrics=["test/iou"]).collect(runs)


def test_other_datasets_are_other_panels_and_may_have_other_classes(sweep, tmp_path):
    one = sweep({"block": 1, "test/iou": 0.2}, name="one")
    other = sweep(
        {"block": 1, "test/iou": 0.3}, classes=("horse",), name="other", dataset={"name": "horses"}
    )
    made = Heatmap(tmp_path).collect(find_runs([str(one), str(other)]))
    assert {row["dataset"]: row["test/iou"] for row in made.rows} == {"toy": 0.2, "horses": 0.3}


@pytest.mark.parametrize(
    ("jobs", "options", "said"),
    [
        ([{"test/fvu": 1.0}], {"metrics": ["test/nope"]}, "No run measured test/nope; measured"),
        ([{"test/fvu": None}], {}, "No run under runs= has measured a number"),
    ],
)
def test_nothing_to_draw_is_a_mistake(sweep, tmp_path, jobs, options, said):
    with pytest.raises(UserError, match=said):
        Heatmap(tmp_path, **options).collect(find_runs(str(sweep(*jobs))))


def test_no_run_has_ended(tmp_path):
    (tmp_path / "0/.hydra").mkdir(parents=True)
    with pytest.raises(UserError, match=r"No run under runs= has ended well"):
        Heatmap(tmp_path / "out").collect(find_runs(str(tmp_path / "0")))


def test_no_torch_is_needed_and_no_matplotlib_before_something_is_drawn():
    modules = ", ".join(f"diffdict.reports.{name}" for name in ("heatmap", "table", "curve"))
    late = {"torch", "numpy", "matplotlib"}
    check = f"import sys, {modules}; sys.exit(bool({late} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.23, "0.230"),
        (32.0, "32"),
        (0.0, "0"),
        (1.5, "1.500"),
        (28.07, "28.1"),
        (1234.5, "1234"),
        (2e-5, "2e-05"),
    ],
)
def test_figures_are_brief(value, said):
    assert brief(value) == said


def test_many_panels_take_several_rows(sweep, tmp_path, drawn):
    jobs = [
        {"model.lr": lr + 0.5, "timestep": t, "test/fvu": 1.0} for lr in range(19) for t in (1, 2)
    ]
    Heatmap(tmp_path).collect(find_runs(str(sweep(*jobs))))
    (figure,) = drawn()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown[:-1]] == [
        f"lr={n + 0.5}" for n in range(19)
    ]
    assert figure.get_figwidth() < 13
    assert len({round(axes.get_position().y0, 3) for axes in shown[:-1]}) > 1
