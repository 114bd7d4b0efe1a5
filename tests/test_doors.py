"""The real doors, one after the other: extract → train → evaluate, resumed, swept, interrupted."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdict.features.store import FeatureStore

ROOT = Path(__file__).parent.parent
SMALL = [  # a network of seconds
    "backbone.num_channels=32",
    "backbone.channel_mult=[1,1]",
    "backbone.num_res_blocks=1",
    "backbone.attention_resolutions=[]",
    "dataset.image_size=16",
    "backbone.image_size=16",
]
FEW = [
    "dataset.train_pictures=8",
    "dataset.val_pictures=4",
    "dataset.test_pictures=4",
    "data.batch_size=4",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
]
TRAIN = [*SMALL, *FEW, "task=diffusion", "model.warmup_steps=0"]


def start(door: str, *words: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{door}.py"), *words],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(door: str, *words: str, cwd: Path) -> str:
    process = start(door, *words, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out + err


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Three epochs of two batches, undisturbed."""
    folder = tmp_path_factory.mktemp("straight")
    run("train", *TRAIN, "trainer.max_epochs=3", "hydra.run.dir=run", cwd=folder)
    return folder / "run"


def test_training_leaves_what_it_says(straight):
    assert (straight / "last.ckpt").exists()
    assert len(logged(straight, "train/loss")) == 6
    assert len(logged(straight, "test/loss")) == 1


@pytest.mark.parametrize(
    ("stop", "end"),
    [
        ("trainer.max_epochs=1", "trainer.max_epochs=3"),
        ("trainer.max_steps=3", "trainer.max_steps=6"),
    ],
)
def test_resumed_equals_straight(straight, tmp_path, stop, end):
    run("train", *TRAIN, stop, "hydra.run.dir=a", cwd=tmp_path)
    run("train", *TRAIN, end, "hydra.run.dir=b", "ckpt_path=a/last.ckpt", cwd=tmp_path)
    losses = logged(tmp_path / "a", "train/loss") + logged(tmp_path / "b", "train/loss")
    assert losses == logged(straight, "train/loss")
    ours, theirs = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "b", straight)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_evaluate_equals_the_test_of_training(straight, tmp_path):
    words = [f"ckpt_path={straight}/last.ckpt", "logger=csv", "hydra.run.dir=e", "trainer=cpu"]
    run("evaluate", *words, cwd=tmp_path)
    assert logged(tmp_path / "e", "test/loss") == logged(straight, "test/loss")


def test_evaluate_on_other_pictures(straight, tmp_path):
    words = [f"ckpt_path={straight}/last.ckpt", "logger=csv", "hydra.run.dir=e", "trainer=cpu"]
    faces = ["dataset=toy_faces", "dataset.image_size=16", "dataset.seed=1"]
    run("evaluate", *words, *faces, "dataset.test_pictures=4", cwd=tmp_path)
    assert logged(tmp_path / "e", "test/loss") != logged(straight, "test/loss")


def test_a_trained_checkpoint_is_a_backbone(straight, tmp_path):
    words = [*SMALL, *FEW[:3], f"backbone.checkpoint={straight}/last.ckpt", "block=[1,2]"]
    said = run("extract", *words, "trainer=cpu", cwd=tmp_path)
    store = tmp_path / "features/toy_faces/toy_ddpm/train"
    assert (store / "store.json").exists()
    assert str(Path("features/toy_faces/toy_ddpm/train")) in said
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    run("extract", *words, "trainer=cpu", cwd=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")} == before
    for verb, words in (("info", "t0050-b01"), ("verify", "every bit")):
        command = [sys.executable, "-m", "diffdict", verb, str(store)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


def test_a_sweep_makes_its_folders(tmp_path):
    words = [
        "-m",
        "block=0,1",
        *SMALL,
        *FEW[:3],
        "backbone.checkpoint=null",
        "split=test",
        "trainer=cpu",
    ]
    run("extract", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert {p.name for p in (tmp_path / "sweep").iterdir() if p.is_dir()} == {"0", "1"}
    streams = tmp_path / "features/toy_faces/toy_ddpm/test"
    assert {"t0050-b00", "t0050-b01"} <= {path.name for path in streams.iterdir()}


def test_samples(tmp_path):
    words = ["task=samples", "data.number=3", "sampler=ddim", "sampler.respacing=ddim4"]
    run("extract", *SMALL, *words, "backbone.checkpoint=null", "trainer=cpu", cwd=tmp_path)
    assert list(tmp_path.rglob("*.npz"))
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.faults
def test_two_ranks_train_and_extract(tmp_path):
    run(
        "train",
        *TRAIN[:-1],
        "trainer=ddp_sim",
        "trainer.max_steps=1",
        "data.batch_size=2",
        cwd=tmp_path,
    )
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1, "a rank makes no folder of its own"
    words = [
        "-m",
        "block=0,1",
        *SMALL,
        *FEW[:3],
        "backbone.checkpoint=null",
        "split=test",
        "trainer=ddp_sim",
    ]
    run("extract", *words, "seed=0", cwd=tmp_path)
    assert len(list(tmp_path.glob("multirun/*/*"))) == 1, "a rank does not start the sweep again"
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1


@pytest.mark.faults
def test_ranks_of_torchrun_share_one_folder_and_one_store(tmp_path):
    words = [*SMALL, *FEW[:3], "backbone.checkpoint=null", "block=1", "trainer=ddp_sim"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command = [*torchrun, str(ROOT / "extract.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1
    assert FeatureStore.open(tmp_path / "features/toy_faces/toy_ddpm/train").verify()


@pytest.mark.faults
def test_two_ranks_draw_the_samples_of_one(tmp_path):
    sampled = {}
    for trainer in ("cpu", "ddp_sim"):
        words = ["task=samples", "data.number=5", "data.shard_size=2", "sampler.respacing=ddim4"]
        folder = [f"paths.samples={trainer}", "backbone.checkpoint=null", f"trainer={trainer}"]
        run("extract", *SMALL, *words, *folder, cwd=tmp_path)
        shards = sorted((tmp_path / trainer).rglob("*.npz"))
        assert len(shards) == 3
        sampled[trainer] = np.concatenate([np.load(shard)["arr_0"] for shard in shards])
    assert sampled["cpu"].shape[0] == 5
    assert np.abs(sampled["cpu"].astype(int) - sampled["ddp_sim"]).max() <= 1


@pytest.mark.faults
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_how_it_goes_on(tmp_path, stop, code):
    process = start("train", *TRAIN, "trainer.max_epochs=-1", "hydra.run.dir=run", cwd=tmp_path)
    metrics = tmp_path / "run/metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size > 100) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(stop)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    last = tmp_path / "run/last.ckpt"
    assert f"ckpt_path={last}" in err or "ckpt_path=run/last.ckpt" in err, err
    torch.load(last, weights_only=True)
