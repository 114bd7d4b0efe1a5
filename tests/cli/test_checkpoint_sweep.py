"""checkpoints=FOLDER: the words of a command become a sweep over what a training has kept."""

from pathlib import Path

import pytest

from diffdict.cli.checkpoint_sweep import checkpoints_of, sweep_over_checkpoints
from diffdict.errors import UserError
from diffdict.results.folders import checkpoint_step

SUBDIR = "hydra.sweep.subdir='${diffdict.step:${backbone.checkpoint}}'"


@pytest.fixture
def run(tmp_path) -> Path:
    """A training's folder, in whose path are letters that Hydra would read."""
    folder = tmp_path / "a run, of 'mine'=1"
    folder.mkdir()
    for name in ("step=20.ckpt", "step=100.ckpt", "last.ckpt", "step=3.ckpt.tmp", "step=x.ckpt"):
        (folder / name).touch()
    return folder


def test_checkpoints_come_by_their_steps(run):
    assert [path.name for path in checkpoints_of(str(run))] == ["step=20.ckpt", "step=100.ckpt"]


def test_a_command_becomes_a_sweep(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    run.rename("ddae")
    words = ["task=geometry", "checkpoints=ddae", "hydra.run.dir=out", "block=[1,2]"]
    files = "'ddae/step=20.ckpt','ddae/step=100.ckpt'"
    assert sweep_over_checkpoints("evaluate", words) == [
        *("-m", "task=geometry", "hydra.sweep.dir=out", "block=[1,2]"),
        *(SUBDIR, f"backbone.checkpoint={files}"),
    ]
    own = ["-m", "seed=0,1", "task=geometry", "checkpoints=ddae", "hydra.sweep.dir=out"]
    assert sweep_over_checkpoints("evaluate", own) == [
        *("-m", f"backbone.checkpoint={files}", "seed=0,1", "task=geometry", "hydra.sweep.dir=out")
    ]
    named = sweep_over_checkpoints("evaluate", [*words, "hydra.sweep.subdir=x"])
    assert SUBDIR not in named
    assert "hydra.sweep.subdir=x" in named


@pytest.mark.parametrize(
    "words",
    [
        ["task=geometry", "checkpoints=nowhere", "--cfg", "job"],
        ["--help", "checkpoints=nowhere"],
        ["ckpt_path=last.ckpt", "report=grid"],
    ],
)
def test_other_commands_stay_as_they_are(words):
    assert sweep_over_checkpoints("evaluate", words) == words


def test_null_is_nothing():
    words = ["task=geometry", "checkpoints=null"]
    assert sweep_over_checkpoints("evaluate", words) == words[:1]


def test_every_checkpoint_draws_into_a_folder_a_step_where_its_samples_are_measured(
    run, monkeypatch
):
    monkeypatch.chdir(run.parent)
    run.rename("ddae")
    files = "'ddae/step=20.ckpt','ddae/step=100.ckpt'"
    step = "step-${diffdict.step:${backbone.checkpoint}}"
    for typed, place in (([], "${paths.samples}/${backbone.name}"), (["folder=drawn"], "drawn")):
        words = ["task=samples", *typed, "checkpoints=ddae"]
        assert sweep_over_checkpoints("extract", words) == [
            *("-m", "task=samples", f"folder='{place}/{step}'"),
            *(SUBDIR, f"backbone.checkpoint={files}"),
        ]
    words = ["task=fid", "samples=drawn", "backbone.checkpoint=a", "checkpoints=ddae"]
    assert sweep_over_checkpoints("evaluate", words) == [
        *("-m", "task=fid", "backbone.checkpoint=a"),
        "hydra.sweep.subdir='${diffdict.step:${samples}}'",
        "samples=drawn/step-20,drawn/step-100",
    ]
    assert [checkpoint_step(f"drawn/step-{step}") for step in (20, "x")] == [20, None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["checkpoints=RUN", "task=fid"], "task=fid checkpoints=RUN .* extract.py task=samples"),
        (["checkpoints=RUN"], "goes with a task that measures a network, .*it got none"),
        (["checkpoints=RUN", "task=sae"], "goes with a task .*it got task=sae"),
        (["checkpoints=RUN", "ckpt_path=a.ckpt"], "goes with a task .*it got ckpt_path=a.ckpt"),
        (["checkpoints=nowhere", "task=geometry"], "checkpoints=nowhere is the folder of a train"),
        (["checkpoints=.", "task=geometry"], r"holds no step=….ckpt .*every_n_train_steps=1000"),
        (["checkpoints=3", "task=geometry"], "is the folder of one training, got 3"),
        (
            ["checkpoints=RUN", "task=geometry", "backbone.checkpoint=a"],
            "and so does backbone.checkpoint=a: leave one of them out",
        ),
    ],
)
def test_what_cannot_be_is_said(run, monkeypatch, words, said):
    monkeypatch.chdir(run.parent)
    run.rename("RUN")
    with pytest.raises(UserError, match=said):
        sweep_over_checkpoints("evaluate", words)


def test_only_samples_are_drawn_of_every_checkpoint(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    run.rename("RUN")
    with pytest.raises(UserError, match="goes with task=samples; it got task=features"):
        sweep_over_checkpoints("extract", ["checkpoints=RUN", "task=features"])
    words = ["checkpoints=RUN", "task=samples", "backbone.checkpoint=a"]
    with pytest.raises(UserError, match=r"drawn from, and so does backbone\.checkpoint=a"):
        sweep_over_checkpoints("extract", words)
