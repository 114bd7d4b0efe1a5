"""Few-shot segmentation through the real doors: trained, evaluated with pictures, one picture."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
SMALL = [
    *("task=pixel_mlp", "backbone=pixels", "timestep=null", "block=pixels", "data.source=live"),
    *("dataset.image_size=16", "dataset.train_pictures=4", "dataset.test_pictures=3"),
    *("model.members=3", "trainer=cpu", "trainer.max_epochs=2", "callbacks.progress=null"),
]


def run(door: str, *words: str, cwd: Path, code: int = 0) -> str:
    command = [sys.executable, str(ROOT / f"{door}.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter")
    run("train", *SMALL, "hydra.run.dir=run", cwd=folder)
    return folder


def test_training_leaves_what_it_says(learned):
    found = results(learned / "run")
    assert found["task"] == "pixel_mlp"
    assert 0 < found["metrics"]["test/miou"] < 1
    with (learned / "run/classes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 15
    assert len(found["tables"]["members"]) == 3
    for i in range(3):
        kept = torch.load(learned / f"run/classifiers/model_{i}.pth", weights_only=True)
        assert kept["model_state_dict"]["module.layers.0.weight"].shape == (128, 5)


def test_evaluation_is_the_test_of_training_and_draws(learned):
    """By another vote, which the training's test has measured too."""
    words = ["ckpt_path=run/last.ckpt", "report=grid", "trainer=cpu", "callbacks.progress=null"]
    said = run("evaluate", *words, "+model.vote=soft", "hydra.run.dir=e", cwd=learned)
    ours, theirs = (results(learned / name)["metrics"] for name in ("e", "run"))
    for name in ("miou_majority", "miou_soft", "uncertainty"):
        assert ours[f"test/{name}"] == theirs[f"test/{name}"]
    assert ours["test/miou"] == ours["test/miou_soft"] != theirs["test/miou"]
    assert str(Path("e/grid")) in said
    assert np.load(learned / "e/grid/labels/00002.npy").shape == (16, 16)


def test_one_picture(learned):
    Image.new("RGB", (20, 30), (200, 120, 90)).save(learned / "own.png")
    words = ["ckpt_path=run/last.ckpt", "picture=own.png", "trainer=cpu"]
    said = run("evaluate", *words, "hydra.run.dir=p", cwd=learned)
    assert "share" in said
    assert np.load(learned / "p/picture/labels.npy").shape == (16, 16)


def test_published_classifiers_are_measured(learned):
    words = [*SMALL, "model.classifiers=run/classifiers", "hydra.run.dir=c"]
    run("train", *words, cwd=learned)
    ours, theirs = results(learned / "c"), results(learned / "run")
    assert ours["metrics"]["test/miou"] == theirs["metrics"]["test/miou"]
    assert (learned / "c/last.ckpt").is_file()


def test_what_others_have_learned_is_evaluated(learned):
    """By its task's own word, without a training; as a checkpoint it names the command."""
    words = ["dataset=toy_faces", *SMALL]  # evaluate.py takes no set for granted
    folder = "model.classifiers=run/classifiers"
    run("evaluate", *words, folder, "report=grid", "hydra.run.dir=d", cwd=learned)
    ours, theirs = results(learned / "d"), results(learned / "run")
    assert ours["metrics"]["test/miou"] == theirs["metrics"]["test/miou"]
    assert not (learned / "d/last.ckpt").exists()
    with (learned / "d/grid/index.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file)][:2] == ["00000", "00001"]
    for path in ("run/classifiers", "run/classifiers/model_1.pth"):
        mistake = run("evaluate", f"ckpt_path={path}", "hydra.run.dir=m", cwd=learned, code=2)
        assert "python evaluate.py task=pixel_mlp model.classifiers=run/classifiers" in mistake
