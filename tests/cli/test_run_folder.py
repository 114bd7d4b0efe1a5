"""Jobs that are done are left, those of another sweep refused, and evaluate gets one subject."""

import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from diffdict.cli import run_folder
from diffdict.cli.evaluated import subject
from diffdict.errors import UserError
from tests.doors import NET, QUIET, SAE, TOKENS, open_door

WORDS = ["block=3", "sae.scale=[2,4]"]


@pytest.fixture
def done(tmp_path) -> Path:
    results = {"format": 1, "overrides": WORDS, "metrics": {"test/fvu": 0.25, "test/iou": None}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_the_same_job_is_known_whatever_the_order_of_its_words(done, tmp_path):
    assert run_folder.finished_results(done, WORDS[::-1])["metrics"]["test/fvu"] == 0.25
    assert run_folder.finished_results(tmp_path / "new", WORDS) is None


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
        run_folder.finished_results(done, words)


def test_the_sweeper_gets_the_number_that_was_found(done):
    results = run_folder.finished_results(done, WORDS)
    assert run_folder.optimized(results, "test/fvu") == 0.25
    assert math.isnan(run_folder.optimized(results, "test/iou"))
    assert run_folder.optimized(results, None) is None
    with pytest.raises(UserError, match=r"optimized_metric=test/nope is not among.*test/fvu"):
        run_folder.optimized(results, "test/nope")


def test_the_jobs_of_a_sweep_are_one_group():
    folder = "/scratch/me/multirun/2026-01-31/12-00-00"
    assert run_folder.group(RunMode.MULTIRUN, folder) == "multirun/2026-01-31/12-00-00"
    assert run_folder.group(RunMode.RUN, folder) is None


def test_a_folder_is_made_by_the_mode_that_writes_there(tmp_path, monkeypatch):
    own = str(tmp_path / "day/now")
    assert run_folder.fresh_run_folder(RunMode.MULTIRUN, "RUN", own) == own
    monkeypatch.setattr("sys.argv", ["train.py", "--cfg", "hydra", "--resolve"])
    assert run_folder.fresh_run_folder(RunMode.RUN, "RUN", own) == own
    assert not (tmp_path / "day").exists()
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert [run_folder.fresh_run_folder(RunMode.RUN, "RUN", own) for _ in "ab"] == [own, f"{own}-2"]
    (tmp_path / "file").touch()
    assert (
        run_folder.fresh_run_folder("RUN", "RUN", f"{tmp_path}/file/now") == f"{tmp_path}/file/now"
    )


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
        run_folder.check_study(metric)


@pytest.fixture
def evaluate(monkeypatch):
    """`evaluate(ckpt_path="x", task="sae")`: the subject that it would work on."""

    def ask(task=None, **typed):
        words = {"overrides": {"task": []}, "runtime": {"choices": {"task": task}}}
        hydra = OmegaConf.create(words)
        monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
        keys = ["ckpt_path", "runs", "checkpoints", "picture", "names"]
        return subject(OmegaConf.create({**dict.fromkeys(keys), **typed}))

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
    assert run_folder.check_run_folder(done, "train", WORDS[::-1], None) == kept
    for door, words, checkpoint in (
        ("train", ["block=4"], None),
        ("train", ["block=5"], "elsewhere/last.ckpt"),
        ("evaluate", WORDS, str(done / "last.ckpt")),
    ):
        with pytest.raises(UserError, match=r"holds another run already.*another hydra\.run\.dir"):
            run_folder.check_run_folder(done, door, words, checkpoint)
    assert run_folder.check_run_folder(done, "train", ["block=4"], str(done / "last.ckpt")) is None
    assert run_folder.check_run_folder(done / "new", "train", WORDS, None) is None
    (done / "last.ckpt").unlink()
    (done / "results.json").write_text(json.dumps({**kept, "door": "evaluate"}))
    assert (
        run_folder.check_run_folder(done, "evaluate", ["report=grid"], "elsewhere/last.ckpt")
        is None
    )


def test_a_record_is_kept_where_a_run_was(done):
    assert run_folder.record("RUN", str(done)) is None
    assert run_folder.record("RUN", str(done / "new")) == ".hydra"
    assert run_folder.record(RunMode.MULTIRUN, str(done)) is None
    (done / "results.json").rename(done / "last.ckpt")
    assert run_folder.record("RUN", str(done)) is None
    assert run_folder.record("MULTIRUN", str(done)) == ".hydra", "a job that goes on is the same"


BUG = """
import pytorch_lightning as pl

class Bug(pl.Callback):
    def __init__(self, at: str):
        self.at = at

    def on_train_start(self, *_):
        if self.at == "start":
            raise ZeroDivisionError("a bug of one's own")
"""


def test_a_failed_job_of_a_sweep_never_ends_the_others(tmp_path, monkeypatch, capfd):
    """Neither a mistake nor a bug; repeated, the sweep runs what failed and leaves what did not."""
    (tmp_path / "buggy.py").write_text(BUG)
    monkeypatch.syspath_prepend(tmp_path)
    small = [*NET, "dataset.image_size=16", "dataset.train_pictures=4", "dataset.test_pictures=2"]
    assert open_door("extract", [*QUIET, *small, "block=1"], tmp_path, capfd).code == 0
    swept = [*SAE, *TOKENS, "trainer.max_steps=2", "data.choose_pictures=0", "hydra.sweep.dir=s"]
    bug = "+callbacks.bug={_target_:buggy.Bug,at:start},{_target_:buggy.Bug,at:never}"
    words = ["-m", *swept, bug, "sae.k=999,2", "hydra.sweeper.max_batch_size=1"]
    closed = open_door("train", words, tmp_path, capfd)
    assert closed.code == 1, "a bug among them"
    assert [path.parent.name for path in tmp_path.glob("s/*/results.json")] == ["3"]
    assert sum(line.startswith("ZeroDivisionError: a bug") for line in closed.lines) == 1
    said = [line for line in closed.lines if line.startswith("train: ")]
    assert sum("sae.k must lie in" in line for line in said) == 2
    told = said[-1].partition("3 of 4 jobs failed (")[2].split("; ")
    assert [Path(job.split()[0]).name for job in told] == ["0", "1", "2"]
    assert [("sae.k=999" in job, "at:start" in job) for job in told] == [
        (True, True),
        (True, False),
        (False, True),
    ]
    (tmp_path / "buggy.py").write_text(BUG.replace('"start"', '"nowhere"'))
    monkeypatch.delitem(sys.modules, "buggy")
    again = open_door("train", words, tmp_path, capfd)
    assert again.code == 2
    assert sorted(path.parent.name for path in tmp_path.glob("s/*/results.json")) == ["2", "3"]
    assert sum("s/3 has its results: left as it is" in line for line in again.lines) == 1
