"""Jobs that are done are left, those of another sweep refused, and evaluate gets one subject."""

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from diffdict import jobs
from diffdict.errors import UserError

WORDS = ["block=3", "sae.scale=[2,4]"]


@pytest.fixture
def done(tmp_path) -> Path:
    results = {"format": 1, "overrides": WORDS, "metrics": {"test/fvu": 0.25, "test/iou": None}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_the_same_job_is_known_whatever_the_order_of_its_words(done, tmp_path):
    assert jobs.results_of(done, WORDS[::-1])["metrics"]["test/fvu"] == 0.25
    assert jobs.results_of(tmp_path / "new", WORDS) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["block=4", "sae.scale=[2,4]"], r"\(there block=3, here block=4\)"),
        ([*WORDS, "seed=1"], r"\(there nothing instead, here seed=1\)"),
        ([], r"\(there block=3 sae.scale=\[2,4\], here nothing instead\)"),
    ],
)
def test_results_of_another_job_are_refused(done, words, said):
    with pytest.raises(UserError, match=said + r".*another hydra.sweep.dir=.*hydra.sweep.subdir"):
        jobs.results_of(done, words)


def test_the_sweeper_gets_the_number_that_was_found(done):
    results = jobs.results_of(done, WORDS)
    assert jobs.optimized(results, "test/fvu") == 0.25
    assert math.isnan(jobs.optimized(results, "test/iou"))
    assert jobs.optimized(results, None) is None
    with pytest.raises(UserError, match=r"optimized_metric=test/nope is not among.*test/fvu"):
        jobs.optimized(results, "test/nope")


def test_the_jobs_of_a_sweep_are_one_group():
    folder = "/scratch/me/multirun/2026-01-31/12-00-00"
    assert jobs.group(RunMode.MULTIRUN, folder) == "multirun/2026-01-31/12-00-00"
    assert jobs.group(RunMode.RUN, folder) is None


def test_a_folder_is_made_by_the_mode_that_writes_there(tmp_path, monkeypatch):
    own = str(tmp_path / "day/now")
    assert jobs.fresh(RunMode.MULTIRUN, "RUN", own) == own
    monkeypatch.setattr("sys.argv", ["train.py", "--cfg", "hydra", "--resolve"])
    assert jobs.fresh(RunMode.RUN, "RUN", own) == own
    assert not (tmp_path / "day").exists()
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert [jobs.fresh(RunMode.RUN, "RUN", own) for _ in "ab"] == [own, f"{own}-2"]
    (tmp_path / "file").touch()
    assert jobs.fresh("RUN", "RUN", f"{tmp_path}/file/now") == f"{tmp_path}/file/now"


@pytest.mark.parametrize(
    ("mode", "direction", "metric", "said"),
    [
        (RunMode.MULTIRUN, "minimize", None, "hydra/sweeper=optuna chooses by a number"),
        (RunMode.MULTIRUN, ["minimize", "maximize"], "test/fvu", "a run gives one"),
        (RunMode.MULTIRUN, "minimize", "test/fvu", None),
        (RunMode.MULTIRUN, None, None, None),
        (RunMode.RUN, "minimize", None, None),
    ],
)
def test_a_study_is_told_its_number(monkeypatch, mode, direction, metric, said):
    sweeper = {} if direction is None else {"direction": direction}
    choices = {"choices": {"hydra/sweeper": "optuna"}}
    hydra = OmegaConf.create({"mode": mode, "sweeper": sweeper, "runtime": choices})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    with nullcontext() if said is None else pytest.raises(UserError, match=said):
        jobs.check_study(metric)


@pytest.fixture
def evaluate(monkeypatch):
    """`evaluate(ckpt_path="x", task="sae")`: the subject that it would work on."""

    def ask(task=None, **typed):
        words = {"overrides": {"task": []}, "runtime": {"choices": {"task": task}}}
        hydra = OmegaConf.create(words)
        monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
        return jobs.subject(
            OmegaConf.create({**dict.fromkeys(["ckpt_path", "runs", "picture", "names"]), **typed})
        )

    return ask


def test_evaluate_works_on_one_thing(evaluate):
    assert evaluate(ckpt_path="a/last.ckpt") == "ckpt_path"
    assert evaluate(runs="multirun") == "runs"
    assert evaluate(task="probe_sweep") == "task"
    for typed in ({}, {"ckpt_path": "a", "runs": "b"}, {"runs": "b", "task": "probe_sweep"}):
        with pytest.raises(UserError, match=r"exactly one of ckpt_path=.*runs=.*task=probe_sweep"):
            evaluate(**typed)
    assert evaluate(ckpt_path="a/last.ckpt", picture="me.jpg") == "ckpt_path"
    with pytest.raises(UserError, match=r"picture=me.jpg shows .* not with runs=multirun"):
        evaluate(runs="multirun", picture="me.jpg")
    with pytest.raises(UserError, match="task=sae is judged by what it has learned"):
        evaluate(task="sae")


def test_a_folder_is_of_one_run(done):
    """The same training is left, another refused, one that goes on let in, a page made anew."""
    (done / "last.ckpt").touch()
    kept = json.loads((done / "results.json").read_text()) | {"door": "train"}
    (done / "results.json").write_text(json.dumps(kept))
    assert jobs.of_one_run(done, "train", WORDS[::-1], None) == kept
    for door, words, checkpoint in (
        ("train", ["block=4"], None),
        ("train", ["block=5"], "elsewhere/last.ckpt"),
        ("evaluate", WORDS, str(done / "last.ckpt")),
    ):
        with pytest.raises(UserError, match=r"holds another run already.*another hydra\.run\.dir"):
            jobs.of_one_run(done, door, words, checkpoint)
    assert jobs.of_one_run(done, "train", ["block=4"], str(done / "last.ckpt")) is None
    assert jobs.of_one_run(done / "new", "train", WORDS, None) is None
    (done / "last.ckpt").unlink()
    (done / "results.json").write_text(json.dumps({**kept, "door": "evaluate"}))
    assert jobs.of_one_run(done, "evaluate", ["report=grid"], "elsewhere/last.ckpt") is None


def test_a_record_is_kept_where_a_run_was(done):
    assert jobs.record("RUN", str(done)) is None
    assert jobs.record("RUN", str(done / "new")) == ".hydra"
    assert jobs.record(RunMode.MULTIRUN, str(done)) is None
    (done / "results.json").rename(done / "last.ckpt")
    assert jobs.record("RUN", str(done)) is None
    assert jobs.record("MULTIRUN", str(done)) == ".hydra", "a job that goes on is the same"
