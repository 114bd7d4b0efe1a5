"""The real doors over several runs: swept, repeated, resumed, reported on, under launchers."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NET = [  # a network of seconds
    *("backbone.num_channels=32", "backbone.channel_mult=[1,1]", "backbone.num_res_blocks=1"),
    *("backbone.attention_resolutions=[]", "backbone.image_size=16", "backbone.checkpoint=null"),
    *("dataset.image_size=16", "dataset.train_pictures=8", "dataset.val_pictures=4"),
    *("dataset.test_pictures=4", "trainer=cpu"),
]
SAE = [  # 1,792 tokens to learn from: 7 batches an epoch
    *("task=sae", "block=1", "sae.k=4", "data.batch_size=256", "data.val_pictures=1"),
    *("trainer.max_steps=8", "model.warmup_steps=3", "model.decay=none"),
    *("callbacks.progress=null", "optimized_metric=test/fvu"),
]


def start(door: str, *words: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{door}.py"), *words],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def run(door: str, *words: str, cwd: Path, code: int = 0) -> str:
    process = start(door, *words, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out + err


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the features of eight faces."""
    folder = tmp_path_factory.mktemp("stored")
    run("extract", *NET, "block=1", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def swept(stored):
    """Two dictionaries of different width in a sweep, and a job that was refused."""
    words = [*NET, *SAE, "hydra.sweep.dir=sweep"]
    run("train", "-m", *words, "sae.scale=2,4,0.001", cwd=stored, code=2)
    return words, stored / "sweep"


def test_a_sweep_that_is_repeated_leaves_what_is_done(swept, stored):
    words, folder = swept
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("[01]/**/*") if path.is_file()}
    said = run("train", "-m", *words, "sae.scale=2,4,0.001", cwd=stored, code=2)
    for number in "01":
        assert said.count(f"train: {folder / number} has its results: left as it is") == 1
    assert said.count("train: A dictionary has at least 1 latent") == 1, "and what failed fails"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    said = run("train", "-m", *words, "sae.scale=4,2", cwd=stored, code=2)
    assert said.count("holds the results of another job") == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_job_that_was_stopped_goes_on_from_its_checkpoint(swept, stored):
    words, folder = swept
    before = results(folder / "1")
    (folder / "1/results.json").unlink()
    said = run("train", "-m", *words, "sae.scale=2,4", cwd=stored)
    assert said.count(f"Goes on from {folder / '1/last.ckpt'}") == 1
    assert results(folder / "1")["metrics"] == before["metrics"]


def test_a_sweep_is_reported_on(swept, stored):
    _, folder = swept
    words = [f"runs={folder}", "hydra.run.dir=report"]
    said = run("evaluate", "report=heatmap", *words, cwd=stored)
    assert f"Without results, so left out (1): {folder / '2'}" in said
    with (stored / "report/heatmap.csv").open() as file:
        found = {row["sae.scale"]: float(row["test/fvu"]) for row in csv.DictReader(file)}
    assert found == {
        scale: results(folder / number)["metrics"]["test/fvu"]
        for scale, number in (("2", "0"), ("4", "1"))
    }
    assert "sae.scale" in run("evaluate", "report=table", *words, cwd=stored)
    run("evaluate", "report=curve", "x=sae.scale", *words, cwd=stored)
    made = {path.name for path in (stored / "report").iterdir() if path.is_file()}
    assert made >= {"heatmap.png", "table.csv", "table.md", "curve.png", "curve.csv"}


def test_probes_of_what_is_stored_and_of_what_is_seen(stored):
    words = [*NET, "task=probe_sweep"]
    said = run("evaluate", *words, "timestep=[50,400]", "hydra.run.dir=live", cwd=stored)
    assert "Best cells" in said
    cells = [(t, b) for t in (50, 400) for b in range(4)]
    with (stored / "live/cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["timestep"]), int(row["block"])) for row in rows] == cells
    found = results(stored / "live")
    assert found["metrics"]["test/t0400-b02/miou"] == pytest.approx(float(rows[6]["miou"]))
    assert found["tables"]["cells"][6]["block"] == 2
    words += ["data.source=store", "timestep=null", "block=null", "hydra.run.dir=from_store"]
    run("evaluate", *words, cwd=stored)
    assert [*results(stored / "from_store")["metrics"]] == [
        "test/t0050-b01/miou",
        "val/t0050-b01/miou",
    ]
    for folder in ("live", "from_store"):
        assert (stored / folder / "heatmap.png").exists()
    said = run("evaluate", "report=table", "runs=live", cwd=stored)
    assert len([line for line in said.splitlines() if line.startswith((" 50 ", " 400 "))]) == 8


@pytest.mark.faults
def test_probes_of_two_ranks_are_those_of_one(tmp_path):
    found = {}
    for trainer in ("cpu", "ddp_sim"):
        words = [*NET[:-1], f"trainer={trainer}", f"hydra.run.dir={trainer}", "timestep=50"]
        run("evaluate", "task=probe_sweep", *words, cwd=tmp_path)
        found[trainer] = results(tmp_path / trainer)["metrics"]
    assert found["cpu"].keys() == found["ddp_sim"].keys()
    assert found["ddp_sim"] == pytest.approx(found["cpu"], abs=0.02)
