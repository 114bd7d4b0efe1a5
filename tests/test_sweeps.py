"""The real doors over several runs: swept, repeated, resumed, reported on, under launchers."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.processes import PATIENCE

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
    out, err = process.communicate(timeout=PATIENCE)
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


def times(folder: Path) -> dict[Path, int]:
    """When each file of the jobs that ended well was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("[01]/**/*") if path.is_file()}


def test_a_sweep_that_is_repeated_leaves_what_is_done(swept, stored):
    words, folder = swept
    before = times(folder)
    said = run("train", "-m", *words, "sae.scale=2,4", cwd=stored)
    for number in "01":
        assert said.count(f"train: {folder / number} has its results: left as it is") == 1
    assert times(folder) == before
    said = run("train", "-m", *words, "sae.scale=4,2", cwd=stored, code=2)
    assert said.count("holds the results of another job (there sae.scale=2, here sae.scale=4)") == 1
    assert said.count("holds the results of another job") == 2
    assert times(folder) == before


def test_jobs_side_by_side_say_their_mistakes(swept, stored):
    """Under joblib, whose workers tell the door what failed."""
    words, folder = swept
    before = times(folder)
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    said = run("train", "-m", *words, "sae.scale=2,4,0.001", *launcher, cwd=stored, code=2)
    assert said.count("has its results: left as it is") == 2
    assert "train: A dictionary has at least 1 latent" in said
    assert "Traceback" not in said
    assert times(folder) == before


def test_a_job_that_was_stopped_goes_on_from_its_checkpoint(swept, stored):
    """Under submitit, as on a cluster, where a job has another process and a log of its own."""
    words, folder = swept
    before = results(folder / "1")
    (folder / "1/results.json").unlink()
    launcher = "hydra/launcher=submitit_local"
    said = run("train", "-m", *words, "sae.scale=2,4", launcher, cwd=stored)
    assert "Traceback" not in said
    logs = "".join(path.read_text() for path in folder.glob(".submitit/*/*_log.err"))
    assert logs.count(f"train: {folder / '0'} has its results: left as it is") == 1
    assert logs.count(f"Goes on from {folder / '1/last.ckpt'}") == 1
    assert results(folder / "1")["metrics"] == before["metrics"]
    assert "val/fvu" in (folder / "1/metrics-1.csv").read_text(), "what was logged before is kept"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"0", "1", "2", ".submitit"}
    said = run("train", "-m", *words, "sae.scale=4,2", launcher, cwd=stored, code=2)
    assert "train: " + str(folder / "0") + " holds the results of another job" in said


def test_a_study_gets_what_was_found(swept, stored):
    """Of optuna: kept in a file, and told the figures of jobs that had run before."""
    words, folder = swept
    study = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"]
    study += ["hydra.sweeper.direction=minimize", "hydra.sweeper.study_name=widths"]
    study += [f"hydra.sweeper.storage=sqlite:///{stored}/study.db", "hydra.sweeper.sampler.seed=10"]
    run("train", "-m", *words, "sae.scale=choice(2,4)", *study, cwd=stored)
    kept = OmegaConf.load(folder / "optimization_results.yaml")
    best = min((results(folder / n)["metrics"]["test/fvu"], n) for n in "01")
    assert kept.best_value == best[0]
    assert kept.best_params == {"sae.scale": {"0": 2, "1": 4}[best[1]]}
    assert (stored / "study.db").exists()


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["sae.scale=choice(0.001)"], ["A dictionary has at least", "No trial has given"]),
        (["sae.scale=choice(2)", "optimized_metric=null"], ["hydra/sweeper=optuna chooses by"]),
    ],
)
def test_a_study_that_finds_nothing_says_so(stored, tmp_path, words, ours):
    study = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1"]
    asked = [*NET, *SAE, f"paths.features={stored}/features", *study, *words]
    said = run("train", "-m", *asked, cwd=tmp_path, code=2)
    lines = [line for line in said.splitlines() if line.startswith("train: ")]
    assert len(lines) == len(ours), said
    assert all(line.startswith(f"train: {word}") for line, word in zip(lines, ours, strict=True))
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "kind", "tables"),
    [((), "run", ["table.csv"]), (("-m", "seed=0,1"), "sweep", ["0/table.csv", "1/table.csv"])],
)
def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    swept, tmp_path, flags, kind, tables
):
    """By default, where the time names them."""
    usual = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/hydra/default.yaml"))[kind]["dir"]
    now = usual.replace("${now:%Y-%m-%d}/${now:%H-%M-%S}", "2026-01-31/12-00-00")
    assert now != usual
    words = [*flags, f"runs={swept[1]}", "report=table", f"hydra.{kind}.dir='{now}'"]
    both = [start("evaluate", *words, cwd=tmp_path) for _ in range(2)]
    for process in both:
        said = "".join(process.communicate(timeout=PATIENCE))
        assert process.returncode == 0, said
    (day,) = tmp_path.glob("*/*")
    assert {folder.name for folder in day.iterdir()} == {"12-00-00", "12-00-00-2"}
    for folder in day.iterdir():
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.csv")) == tables


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


def test_probes_of_what_is_stored(stored):
    words = [*NET, "task=probe_sweep", "data.source=store", "timestep=null", "block=null"]
    said = run("evaluate", *words, "hydra.run.dir=probes", cwd=stored)
    assert "Best cells" in said
    with (stored / "probes/cells.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["timestep"], row["block"]) == ("50", "1")
    found = results(stored / "probes")
    assert found["tables"]["cells"][0]["block"] == 1
    metrics = {"test/t0050-b01/miou": "miou", "val/t0050-b01/miou": "val_miou"}
    assert found["metrics"] == {k: pytest.approx(float(row[own])) for k, own in metrics.items()}
    assert (stored / "probes/heatmap.png").exists()
    assert row["miou"][:4] in run("evaluate", "report=table", "runs=probes", cwd=stored)


@pytest.mark.faults
def test_a_job_of_two_ranks_goes_on(stored):
    words = [*NET[:-1], *SAE, "trainer=ddp_sim", "hydra.sweep.dir=ranks", "sae.scale=2"]
    run("train", "-m", *words, cwd=stored)
    before = results(stored / "ranks/0")
    (stored / "ranks/0/results.json").unlink()
    said = run("train", "-m", *words, cwd=stored)
    assert said.count(f"Goes on from {stored / 'ranks/0/last.ckpt'}") == 1
    assert results(stored / "ranks/0")["metrics"] == before["metrics"]


@pytest.mark.faults
def test_a_failed_job_of_two_ranks_ends_no_other(stored):
    """Lightning would end the whole sweep, once it saw that the failed job's rank had ended."""
    words = [*NET[:-1], *SAE, "trainer=ddp_sim", "hydra.sweep.dir=failing", "sae.scale=2"]
    said = run("train", "-m", *words, "data.batch_size=100000,128", cwd=stored, code=2)
    assert f"1 of 2 jobs failed ({stored / 'failing/0'} data.batch_size=100000)" in said
    assert results(stored / "failing/1")["metrics"]


@pytest.mark.faults
def test_probes_of_two_ranks_are_those_of_one(tmp_path):
    found = {}
    for trainer in ("cpu", "ddp_sim"):
        words = [*NET[:-1], f"trainer={trainer}", f"hydra.run.dir={trainer}", "timestep=[50,400]"]
        run("evaluate", "task=probe_sweep", *words, cwd=tmp_path)
        found[trainer] = results(tmp_path / trainer)["metrics"]
    assert len(found["cpu"]) == 2 * 2 * 4
    assert found["cpu"].keys() == found["ddp_sim"].keys()
    assert found["ddp_sim"] == pytest.approx(found["cpu"], abs=0.02)
