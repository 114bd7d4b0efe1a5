"""Heat maps: every cell where it belongs, means over seeds, the best one framed and named."""

import csv
import math
import subprocess
import sys
from itertools import product

import pytest
from PIL import Image

from diffdict.errors import UserError
from diffdict.reports.drawing.canvas import INK, PAPER, ramp
from diffdict.reports.heatmap import Heatmap, brief
from diffdict.reports.runs.folders import find_runs
from diffdict.reports.runs.points import points_of, varying


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


def test_the_picture_shows_each_cell_in_its_colour_and_frames_the_best(sweep, tmp_path):
    values = {(10, 1): 0.1, (10, 2): 0.5, (200, 1): 0.4, (200, 2): 0.9}
    folder = sweep(*({"timestep": t, "block": b, "test/iou": v} for (t, b), v in values.items()))
    made = Heatmap(tmp_path / "out").collect(find_runs(str(folder)))
    picture = Image.open(made.picture).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 20)}
    for value in values.values():
        assert ramp((value - 0.1) / 0.8) in colours
    places = product(range(picture.width), range(picture.height))
    x, y = next(place for place in places if picture.getpixel(place) == ramp(1.0))
    around = [picture.getpixel((x - step, y)) for step in (1, 2)]
    assert around == [PAPER, INK], "the brightest cell is framed"


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


def test_no_torch_is_needed():
    modules = ", ".join(f"diffdict.reports.{name}" for name in ("heatmap", "table", "curve"))
    check = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.23, "0.230"), (32.0, "32"), (0.0, "0"), (1.5, "1.500"), (1234.5, "1234"), (2e-5, "2e-05")],
)
def test_figures_are_brief(value, said):
    assert brief(value) == said


def test_many_panels_take_several_rows(sweep, tmp_path):
    jobs = [
        {"model.lr": lr / 10, "timestep": t, "test/fvu": 1.0} for lr in range(9) for t in (1, 2)
    ]
    picture = Image.open(Heatmap(tmp_path).collect(find_runs(str(sweep(*jobs)))).picture)
    assert picture.width < 2000
    assert picture.height > 200
