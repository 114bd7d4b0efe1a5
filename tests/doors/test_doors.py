"""The real doors, one after the other: extract → train → evaluate, resumed, swept, interrupted."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.features.store import FeatureStore
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
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
SAE = [  # 1,792 tokens to learn from: 7 batches an epoch
    *("task=sae", "block=1", "sae.k=4", "data.batch_size=256", "data.val_pictures=1"),
    *("model.warmup_steps=3", "model.decay=none"),
]


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
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    return out + err


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


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


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the features of eight faces."""
    folder = tmp_path_factory.mktemp("stored")
    words = [*SMALL, *FEW[:3], "backbone.checkpoint=null", "block=1"]
    run("extract", *words, "trainer=cpu", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def dictionaries(stored):
    """Two dictionaries side by side, in the middle of their second epoch."""
    words = [*SMALL, *FEW[:3], *SAE, "backbone.checkpoint=null", *FEW[-2:]]
    words += ["sae.scale=[2,4]", "trainer.max_steps=10", "optimized_metric=val/scale4/fvu"]
    run("train", *words, "hydra.run.dir=both", cwd=stored)
    return stored / "both"


def test_dictionaries_leave_what_they_say(dictionaries):
    for name in ("last.ckpt", "checkpoints/scale2/last.ckpt", "checkpoints/scale4/last.ckpt"):
        torch.load(dictionaries / name, weights_only=True)
    for name in ("density.npz", "dictionary/scale2/card.json", "dictionary/scale4/cfg.json"):
        assert (dictionaries / name).is_file()
    for name in ("scale2", "scale4"):
        assert len(logged(dictionaries, f"train/{name}/loss")) == 10
        assert len(logged(dictionaries, f"val/{name}/fvu")) == 1
        assert len(logged(dictionaries, f"test/{name}/fvu")) == 1
    assert len(logged(dictionaries, "train/gamma")) == 1


def test_a_run_leaves_what_it_found_and_what_was_chosen(dictionaries):
    found = results(dictionaries)
    for split in ("val", "test"):
        for name in ("scale2", "scale4"):
            (fvu,) = logged(dictionaries, f"{split}/{name}/fvu")
            assert found["metrics"][f"{split}/{name}/fvu"] == pytest.approx(fvu, rel=1e-5)
    assert (found["door"], found["task"], found["choices"]["sae"]) == ("train", "sae", "topk")
    assert {"sae.scale=[2,4]", "trainer.max_steps=10"} <= set(found["overrides"])
    config = found["config"]
    assert (config["timestep"], config["block"], config["sae"]["scale"]) == (50, 1, [2, 4])
    assert (config["dataset"]["name"], config["backbone"]["name"]) == ("toy_faces", "toy_ddpm")
    assert config["model"]["optimizer"]["lr"] == 3e-4
    assert "sae" not in config["model"], "what stands twice is told once"
    assert found["facts"]["class_names"][0] == "background"


def test_one_of_them_is_evaluated_alone(dictionaries, stored):
    own = dictionaries / "checkpoints/scale4/last.ckpt"
    words = [f"ckpt_path={own}", "logger=csv", "hydra.run.dir=e", "trainer=cpu"]
    said = run("evaluate", *words, "optimized_metric=test/fvu", cwd=stored)
    for figure in (
        "fvu",
        "cosine",
        "l0",
        "dead",
        "coherence",
        "iou",
        "iou_random",
        "iou_pca",
        "map",
    ):
        ours = logged(stored / "e", f"test/{figure}")
        assert ours == logged(dictionaries, f"test/scale4/{figure}")
        assert f"test/{figure}" in said
    found = results(stored / "e")
    assert (found["door"], found["task"], found["config"]["sae"]["scale"]) == ("evaluate", "sae", 4)
    fvu = results(dictionaries)["metrics"]["test/scale4/fvu"]
    assert found["metrics"]["test/fvu"] == pytest.approx(fvu)


def test_one_of_them_goes_on_alone(dictionaries, stored):
    """The last three batches again, alone: as they were beside the other."""
    words = [*SMALL, *FEW[:3], *SAE, "backbone.checkpoint=null", *FEW[-2:]]
    words += ["sae.scale=[2,4]", "callbacks.checkpoint.every_n_train_steps=7"]
    run("train", *words, "trainer.max_steps=7", "hydra.run.dir=seven", cwd=stored)
    words[-2:] = ["sae.scale=2", "ckpt_path=seven/checkpoints/scale2/last.ckpt"]
    run("train", *words, "trainer.max_steps=10", "hydra.run.dir=rest", cwd=stored)
    assert logged(stored / "rest", "train/loss") == logged(dictionaries, "train/scale2/loss")[7:]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sae.k=500", "sae.k must lie in 1..64, the number of latents, got 500"),
        ("sae.k=2.5", "sae.k must be int, got 2.5"),
        ("sae.scale=0.001", "at least 1 latent, got sae.scale=0.001 of 32 dimensions"),
        ("+sae.nonsense=1", "sae.nonsense is no setting of"),
        ("timestep=60", "backbone.checkpoint=null timestep=60 block=1"),
        ("data.batch_size=2000", "1792 training tokens fill no batch of 2000"),
        ("ckpt_path=both/last.ckpt", "learned with sae.scale=[2,4], here it is 2"),
        ("trainer.gradient_clip_val=1.0", "say model.clip=1, not trainer.gradient_clip_val"),
    ],
)
def test_a_mistake_about_dictionaries_is_one_line(dictionaries, stored, words, said):
    words = [*SMALL, *FEW[:3], *SAE, "backbone.checkpoint=null", "sae.scale=2", *FEW[-2:], words]
    process = start("train", *words, "callbacks.progress=null", cwd=stored)
    err = process.communicate(timeout=PATIENCE)[1].strip().splitlines()
    assert process.returncode == 2, err
    assert [line for line in err if line.startswith("train: ")] == err[-1:]
    assert said in err[-1]


def test_one_batch_of_everything(stored):
    words = [*SMALL, *FEW[:3], *SAE, "backbone.checkpoint=null", "debug=fdr", "sae.scale=2"]
    assert "test/fvu" in run("train", *words, cwd=stored)


def test_live_tokens_and_every_sae_in_a_sweep(tmp_path):
    """No store, a table of dictionaries, and the figure that a sweeper is given."""
    words = [*SMALL, *FEW[:3], *SAE, "backbone.checkpoint=null", "data.source=live", *FEW[-2:]]
    words[words.index("sae.k=4")] = "sae.scale=4"
    sweep = ["sae=relu,jumprelu", "trainer.max_steps=8", "optimized_metric=val/fvu"]
    run("train", "-m", *words, *sweep, "hydra.sweep.dir=sweep", cwd=tmp_path)
    for number in "01":
        assert len(logged(tmp_path / "sweep" / number, "val/fvu")) == 1


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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
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
    while not (metrics.exists() and metrics.stat().st_size > 100):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(stop)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    last = tmp_path / "run/last.ckpt"
    assert f"ckpt_path={last}" in err or "ckpt_path=run/last.ckpt" in err, err
    torch.load(last, weights_only=True)


def test_a_dictionary_makes_its_page_and_looks_at_a_picture(dictionaries, stored):
    own = dictionaries / "checkpoints/scale4/last.ckpt"
    words = [f"ckpt_path={own}", "report=dashboard", "hydra.run.dir=page", "trainer=cpu"]
    run("evaluate", *words, "data.choose_pictures=2", cwd=stored)
    assert results(stored / "page")["config"]["data"]["choose_pictures"] == 2
    assert "data-figures" in (stored / "page/dashboard/index.html").read_text()
    Image.new("RGB", (40, 30), (200, 90, 20)).save(stored / "me.jpg")
    words = [f"ckpt_path={dictionaries}/last.ckpt", "picture=me.jpg", "hydra.run.dir=look"]
    said = run("evaluate", *words, "trainer=cpu", f"paths.features={stored}/none", cwd=stored)
    assert "activation" in said
    found = results(stored / "look/picture")["tables"]["picture"]
    assert {row["dictionary"] for row in found} == {"scale2", "scale4"}
    for name in ("scale2.png", "scale4.png", "picture.csv"):
        assert (stored / "look/picture" / name).is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["picture=none.jpg"], "No picture at none.jpg"),
        (["picture=."], "is a folder: name one picture in it"),
    ],
)
def test_a_mistake_about_a_picture_is_one_line(dictionaries, stored, words, said):
    process = start("evaluate", f"ckpt_path={dictionaries}/last.ckpt", *words, cwd=stored)
    err = process.communicate(timeout=PATIENCE)[1].strip().splitlines()
    assert process.returncode == 2, err
    assert said in err[-1]
    assert len(err) == 1


def test_another_task_has_no_page_and_sees_no_concepts(straight, tmp_path):
    for words, said in (
        (["report=dashboard"], "report=dashboard shows the latents of a dictionary"),
        (["picture=me.jpg"], "picture= shows what was learned about pictures"),
    ):
        process = start("evaluate", f"ckpt_path={straight}/last.ckpt", *words, cwd=tmp_path)
        err = process.communicate(timeout=PATIENCE)[1].strip().splitlines()
        assert process.returncode == 2, err
        assert said in err[-1]
