"""The README's sweep with logger=wandb, small and offline: what its panels read is there."""

import csv
import json
import socketserver
import threading

import pytest
import wandb
from safetensors.torch import load_file

from diffdict.reports.wandb_report import WandbReport
from diffdict.results.folders import find_runs
from tests.doors import FACES, NET, QUIET, enter
from tests.reports.offline import offline_runs, setting, table_rows

TOY = [*QUIET, *NET, *FACES]
LEARNED = [
    *("task=sae", "sae.k=2", "data.batch_size=64", "data.val_pictures=1", "trainer.max_steps=2"),
    *("logger=wandb", "logger.wandb.init_timeout=1"),
]
WHERE = ["timestep=50,150", "block=0,1", "sae.scale=[2,4]", "hydra.sweep.dir=multirun/where"]
PLACES = {(t, b, scale) for t in (50, 150) for b in (0, 1) for scale in (2, 4)}


class Asked(socketserver.BaseRequestHandler):
    """Somebody wanted something of the server."""

    def handle(self):
        self.server.asked += 1


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Extraction, sweep and page as the README has them; and how often a server was asked."""
    folder = tmp_path_factory.mktemp("swept")
    with (
        pytest.MonkeyPatch.context() as patch,
        socketserver.TCPServer(("127.0.0.1", 0), Asked) as server,
    ):
        server.asked = 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        patch.setenv("WANDB_DATA_DIR", str(folder / "staged"))
        patch.setenv("NETRC", str(folder / "netrc"))
        places = ["timestep=[50,150]", "block=[0,1]", "hydra.run.dir=outputs/features"]
        assert enter("extract", [*TOY, *places, "logger=wandb"], folder) == 0
        drawn = [*TOY, "task=samples", "data.number=3", "data.shard_size=2", "logger=wandb"]
        assert enter("extract", [*drawn, "sampler.respacing=ddim2"], folder) == 0
        assert enter("train", ["-m", *TOY, *LEARNED, *WHERE], folder) == 0
        alone = [*TOY, *LEARNED, "timestep=50", "block=1", "sae.scale=2", "seed=1"]
        assert enter("train", [*alone, "hydra.run.dir=outputs/alone"], folder) == 0
        page = ["report=wandb", "runs=multirun/where", "hydra.run.dir=outputs/page"]
        assert enter("evaluate", page, folder) == 0
        wandb.teardown()  # every file is whole
        server.shutdown()
        yield folder, server.asked


@pytest.fixture(scope="module")
def listed(swept):
    """The runs that wandb would list, by their job types."""
    runs = {}
    for run in offline_runs(swept[0]):
        runs.setdefault(run.job_type, []).append(run)
    return runs


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_no_server_is_asked(swept):
    assert swept[1] == 0


def test_every_dictionary_is_a_run_that_says_what_it_is(swept, listed):
    assert {kind: len(runs) for kind, runs in listed.items()} == {
        "extract features": 1,
        "extract samples": 1,
        "train sae": 5,
        "dictionary": 8,
        "evaluate heatmap": 1,
    }
    assert {run.name for run in listed["dictionary"]} == {
        f"t{t} b{b} ×{scale} k=2" for t, b, scale in PLACES
    }
    assert {run.group for run in listed["dictionary"]} == {"multirun/where"}
    assert len({run.id for run in listed["dictionary"]}) == 8
    names = [run.name for run in listed["train sae"]]
    assert names == [f"t{t} b{b} ×2,4 k=2" for t in (50, 150) for b in (0, 1)] + [
        "t50 b1 ×2 k=2 seed=1"
    ]
    assert [run.group for run in listed["train sae"]] == [
        *["multirun/where"] * 4,
        "/".join((swept[0] / "outputs/alone").parts[-3:]),
    ]


def test_the_map_joins_the_group_of_its_sweep(listed):
    (run,) = listed["evaluate heatmap"]
    assert (run.name, run.group) == ("heatmap of multirun/where", "multirun/where")
    assert run.summary["heatmap_picture"]["filenames"]
    assert len(table_rows(run, "heatmap")) == 8


def test_a_dictionary_has_the_names_of_a_single_one(listed):
    alone = listed["train sae"][-1]
    figures = {name for name in alone.summary if name.startswith(("test/", "val/"))}
    for run in listed["dictionary"]:
        assert figures - {"val/density"} <= set(run.summary)
        assert not any("scale" in name for name in run.summary)
        assert {type(setting(run.config, key)) for key in ("sae.scale", "model.sae.scale")} == {int}
        assert set(run.config) == set(alone.config)


def test_the_offline_files_give_the_table_of_the_sweep(swept, listed):
    """Timestep × block × scale of test/iou beside random, as results.json and the map have it."""
    figures = ("test/iou", "test/iou_random", "test/fvu", "test/l0", "test/dead")
    table = {
        tuple(setting(run.config, key) for key in ("timestep", "block", "sae.scale")): {
            figure: run.summary[figure] for figure in figures
        }
        for run in listed["dictionary"]
    }
    assert set(table) == PLACES
    for job in range(4):
        found = results(swept[0] / "multirun" / "where" / str(job))
        place = (found["config"]["timestep"], found["config"]["block"])
        for scale in (2, 4):
            for figure in figures:
                split, name = figure.split("/")
                measured = found["metrics"][f"{split}/scale{scale}/{name}"]
                assert table[*place, scale][figure] == pytest.approx(measured, rel=1e-12)
    with open(swept[0] / "outputs" / "page" / "heatmap.csv", newline="") as lines:
        for row in csv.DictReader(lines):
            place = (int(row["timestep"]), int(row["block"]), int(row["sae.scale"]))
            assert table[place]["test/iou"] == pytest.approx(float(row["test/iou"]), rel=1e-12)


def test_every_panel_of_the_page_has_something_to_read(swept, listed, monkeypatch):
    monkeypatch.chdir(swept[0])
    page = WandbReport().collect(find_runs("multirun/where"))
    assert (page.title, page.groups) == ("multirun/where", ("multirun/where",))
    assert (page.project, page.entity) == ("diffdict", None)
    group = [run for run in offline_runs(swept[0]) if run.group in page.groups]
    panels = [panel for panels in page.sections.values() for panel in panels]
    assert {panel.kind for panel in panels} == {"columns", "scatter", "bars", "pictures", "table"}
    for panel in panels:
        shown = [
            run
            for run in group
            if all(run.summary.get(name) is not None for name in panel.figures)
            and all(setting(run.config, key) is not None for key in panel.settings)
        ]
        if panel.figures == ("heatmap_picture",):
            assert [run.job_type for run in shown] == ["evaluate heatmap"]
        else:
            own = [run for run in shown if run.job_type == "dictionary"]
            assert {run.name for run in own} == {run.name for run in listed["dictionary"]}, panel
    assert len(page.rows) == 8
    assert set(page.rows[0]) >= {"timestep", "block", "sae.scale", "test/iou", "test/iou_random"}


def test_each_dictionary_has_its_classes_with_pictures(swept, listed):
    whole = table_rows(listed["train sae"][0], "classes")
    first = [run for run in listed["dictionary"] if run.name.startswith("t50 b0 ")]
    for run, name in zip(first, ("scale2", "scale4"), strict=True):
        rows = table_rows(run, "classes")
        theirs = [row for row in whole if row["dictionary"] == name]
        assert [row["class"] for row in rows] == [row["class"] for row in theirs]
        assert [row["iou"] for row in rows] == [row["iou"] for row in theirs]
        pictures = [row["picture"] for row in rows if row["picture"]]
        assert len(pictures) == len(run.summary["concepts"]["filenames"])
        assert pictures
        assert run.summary["concepts"]["captions"] == [
            row["class"] for row in rows if row["picture"]
        ]


def test_an_extraction_says_what_it_made(swept, listed):
    (run,) = listed["extract features"]
    assert run.name == "toy_faces t50,150 b0,1 train_pictures=4"
    store = swept[0] / "features" / "toy_faces" / "toy_ddpm"
    rows = {row["split"]: row for row in table_rows(run, "extracted")}
    assert {name: (row["path"], row["pictures"]) for name, row in rows.items()} == {
        "train": (str(store / "train"), 4),
        "test": (str(store / "test"), 2),
    }
    assert run.summary["pictures"] == 6
    stored = {file: load_file(file)["x"] for file in store.rglob("*.safetensors")}
    assert run.summary["bytes"] == sum(x.nbytes for x in stored.values())
    seen = [x for file, x in stored.items() if file.parent.name != "mask"]
    assert run.summary["tokens"] == sum(len(x.flatten(0, 1)) for x in seen)
    assert run.summary["seconds"] > 0
    assert {name for name in run.artifacts if name.startswith("features-")} == {
        "features-train",
        "features-test",
    }


def test_samples_say_how_many_they_are(swept, listed):
    (run,) = listed["extract samples"]
    folder = swept[0] / "samples" / "toy_ddpm"
    size = sum(file.stat().st_size for file in folder.glob("*.npz"))
    row = {"path": str(folder), "pictures": 3, "bytes": size}
    assert table_rows(run, "extracted") == [row]
    assert (run.name, run.summary["pictures"], run.summary["bytes"]) == ("toy_ddpm", 3, size)
    assert "tokens" not in run.summary


def test_a_sweep_that_is_repeated_records_nothing(swept, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = len(offline_runs(swept[0]))
    assert before == 16
    assert enter("train", ["-m", *TOY, *LEARNED, *WHERE], swept[0]) == 0
    assert len(offline_runs(swept[0])) == before
