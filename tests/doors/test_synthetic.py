"""A synthetic set from end to end through the doors: labeller, samples, segmenter, evaluation."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from diffdict.cli.paths import folder as packaged
from diffdict.errors import UserError
from diffdict.run.rewrite import with_labeller
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
SMALL = [
    *("backbone.num_channels=32", "backbone.num_res_blocks=1", "backbone.channel_mult='1,1'"),
    *("backbone.attention_resolutions='16'", "backbone.image_size=16", "dataset.image_size=16"),
    *("backbone.checkpoint=null", "trainer=cpu", "callbacks.progress=null"),
]
FEW = ["dataset.train_pictures=4", "dataset.test_pictures=4"]
LEARN = ["task=pixel_mlp", "data.source=live", "model.members=2", "trainer.max_epochs=1"]
DRAW = ["task=samples", "data.number=12", "data.shard_size=5", "sampler.respacing=ddim3"]
DEEPLAB = [
    *("task=deeplab", "dataset=synthetic", "dataset.image_size=16", "data.batch_size=4"),
    *("dataset.real.train_pictures=4", "dataset.real.test_pictures=4", "data.num_workers=0"),
    *("model.depth=50", "model.width=0.0625", "trainer.max_epochs=2", "trainer=cpu"),
    *("trainer.log_every_n_steps=1", "callbacks.progress=null"),
]


def run(door: str, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{door}.py"), *words],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with a labeller of block 1 and timestep 50, and twelve samples that it labelled."""
    folder = tmp_path_factory.mktemp("drawn")
    run("train", *SMALL, *FEW, *LEARN, "block=1", "hydra.run.dir=learned", cwd=folder)
    words = ["labeller=learned/last.ckpt", "block=0", "timestep=7"]
    (folder / "said").write_text(run("extract", *SMALL, *DRAW, *words, cwd=folder))
    return folder


def test_the_labellers_facts_win_and_it_is_said(drawn):
    said = (drawn / "said").read_text()
    assert "The labeller's facts win: timestep 50 instead of 7; block 1 instead of 0" in said
    kept = json.loads((drawn / "samples/toy_faces_ddpm/samples.json").read_text())
    assert (kept["timestep"], kept["block"]) == ([50], [1])
    assert "uncertainty: mean" in said
    shards = sorted((drawn / "samples/toy_faces_ddpm").glob("samples_*.npz"))
    assert [len(np.load(path)["arr_2"]) for path in shards] == [5, 5, 2]


def test_a_segmenter_learns_from_the_set_and_is_evaluated(drawn):
    said = run("train", *DEEPLAB, "hydra.run.dir=deep", cwd=drawn)
    kept = json.loads((drawn / "deep/results.json").read_text())
    assert "test/miou" in said
    assert kept["config"]["dataset"]["real"]["name"] == "toy_faces"
    assert {"val/best_miou", "test/miou_standard"} <= set(kept["metrics"])
    with (drawn / "deep/classes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 15
    words = ["ckpt_path=deep/last.ckpt", "hydra.run.dir=again", "trainer=cpu", "report=grid"]
    run("evaluate", *words, cwd=drawn)
    again = json.loads((drawn / "again/results.json").read_text())
    assert again["metrics"]["test/miou"] == kept["metrics"]["test/miou"]
    assert (drawn / "again/grid.png").is_file()


def test_only_a_segmenter_labels(tmp_path):
    other = {"model": {"_target_": "diffdict.tasks.linear_probe.LinearProbe"}}
    torch.save({"config": other, "state_dict": {}}, tmp_path / "other.ckpt")
    with initialize_config_dir(packaged("conf"), version_base="1.3"):
        cfg = compose("extract", ["task=samples", f"labeller={tmp_path}/other.ckpt"])
        with pytest.raises(UserError, match=r"other\.ckpt is no run of task=pixel_mlp"):
            with_labeller(cfg)
        whole = compose("extract", ["task=samples"])
        assert with_labeller(whole) is whole


def test_a_labeller_of_another_network_looks_and_the_asked_one_draws(tmp_path, capsys):
    other = {
        "model": {"_target_": "diffdict.tasks.pixel_mlp.PixelMLP", "vote": "soft"},
        "backbone": {"_target_": "diffdict.backbones.pixels.Pixels", "name": "pixels"},
        "data": {"dtype": "fp32", "compute": "fp32"},
        "timestep": None,
        "block": "all",
        "noise": {"shared": True, "seed": 0, "draws": 1},
    }
    torch.save({"config": other, "state_dict": {}}, tmp_path / "other.ckpt")
    with initialize_config_dir(packaged("conf"), version_base="1.3"):
        cfg = with_labeller(compose("extract", ["task=samples", f"labeller={tmp_path}/other.ckpt"]))
    assert cfg.model.net.name == "toy_ddpm"
    made = cfg.model.labeller
    assert (made.backbone.config.name, made.block, made.vote) == ("pixels", "all", "soft")
    said = capsys.readouterr().out
    assert "timestep None instead of 50" in said
    assert "looks through pixels (no weights); what it labels is drawn by toy_ddpm" in said


def test_a_labeller_never_replaces_a_network_that_is_told_something(tmp_path, capsys):
    unet = {"_target_": "diffdict.backbones.guided_unet.GuidedUNet", "name": "seen"}
    other = {
        "model": {"_target_": "diffdict.tasks.pixel_mlp.PixelMLP", "vote": "soft"},
        "backbone": unet,
        "data": {"dtype": "fp32", "compute": "fp32"},
        "timestep": 50,
        "block": 1,
        "noise": {"shared": True, "seed": 0, "draws": 1},
    }
    torch.save({"config": other, "state_dict": {}}, tmp_path / "other.ckpt")
    labeller = f"labeller={tmp_path}/other.ckpt"
    for words in (["backbone=toy_rcdm"], ["backbone=pdae", "condition=pictures"]):
        with initialize_config_dir(packaged("conf"), version_base="1.3"):
            cfg = with_labeller(compose("extract", ["task=samples", *words, labeller]))
        assert cfg.model.net.name == words[0].partition("=")[2]
        assert cfg.model.labeller.backbone.config.name == "seen"
        assert "looks through seen" in capsys.readouterr().out
    with initialize_config_dir(packaged("conf"), version_base="1.3"):
        cfg = with_labeller(compose("extract", ["task=samples", labeller]))
    assert (cfg.model.net.name, cfg.model.labeller.backbone) == ("seen", None)
