"""A training of dictionaries that is stopped or killed goes on as if nothing had been."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.processes import PATIENCE

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
PICTURES = [
    *("backbone=guided_unet", "backbone.num_channels=32", "backbone.num_res_blocks=1"),
    *("backbone.channel_mult='1,1'", "backbone.attention_resolutions='16'"),
    *("dataset.image_size=16", "backbone.image_size=16", "dataset.train_pictures=8"),
    *("dataset.test_pictures=2", "block=1", "trainer=cpu", "callbacks.progress=null"),
]
STEPS = 300
TRAIN = [
    *("task=sae", "sae=relu", "sae.scale=[2,4]", "sae.dead_after=1000", "data.batch_size=64"),
    *("model.resample_every=1500", "model.ema_decay=0.9", "model.decay=cosine", "test=false"),
    *(f"trainer.max_steps={STEPS}", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1"),
    *("callbacks.checkpoint.every_n_train_steps=25", "data.val_pictures=1"),
]


def start(folder: Path, door: str, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / f"{door}.py", *PICTURES, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(process: subprocess.Popen) -> str:
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, said
    return said


def losses(folder: Path) -> dict[int, tuple[str, str]]:
    """Of both dictionaries, by step."""
    with (folder / "metrics.csv").open() as file:
        return {
            int(row["step"]): (row["train/scale2/loss"], row["train/scale4/loss"])
            for row in csv.DictReader(file)
            if row.get("train/scale2/loss")
        }


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run that nobody stopped, features beside it."""
    folder = tmp_path_factory.mktemp("straight")
    done(start(folder, "extract", "split=[train]"))
    done(start(folder, "train", *TRAIN, "hydra.run.dir=whole"))
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_goes_on_bit_by_bit(straight, number):
    name = number.name
    process = start(straight, "train", *TRAIN, f"hydra.run.dir={name}")
    last = straight / name / "last.ckpt"
    while not last.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode in (-9, 143, 130), said
    step = torch.load(last, weights_only=True)["global_step"]
    assert step < STEPS, "it was stopped too late"
    resume = [f"ckpt_path={last}", f"hydra.run.dir={name}-rest"]
    done(start(straight, "train", *TRAIN, *resume))
    whole, rest = losses(straight / "whole"), losses(straight / f"{name}-rest")
    assert rest == {at: loss for at, loss in whole.items() if at >= step}
    if number != signal.SIGKILL:  # whose last rows nobody could write
        assert {**losses(straight / name), **rest} == whole
    ours, theirs = (
        torch.load(straight / folder / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (f"{name}-rest", "whole")
    )
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []


def test_two_ranks_through_the_door(straight):
    """They share one folder, count the tokens of both, and leave a dictionary that is judged."""
    ranks = ["trainer=ddp_sim", "trainer.max_steps=6", "hydra.run.dir=ranks"]
    done(start(straight, "train", *TRAIN, *ranks))
    kept = torch.load(straight / "ranks/checkpoints/scale2/last.ckpt", weights_only=True)
    assert kept["tokens"] == 6 * 64 * 2
    assert (kept["state_dict"]["saes.sae.silent"] % 128 == 0).all()
    assert (straight / "ranks/dictionary/scale4/card.json").is_file()
