"""Labelled samples under kills and on a full disk: whole shards, each once."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.errors import UserError
from diffdict.tasks.labeller import Labeller
from diffdict.tasks.pixel_mlp import PixelMLP
from diffdict.tasks.samples import SampleIndices, Samples
from tests.processes import PATIENCE

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
TINY = [
    *("backbone.num_channels=32", "backbone.num_res_blocks=1", "backbone.channel_mult='1,1'"),
    *("backbone.attention_resolutions='16'", "backbone.image_size=16", "dataset.image_size=16"),
    *("dataset.train_pictures=4", "dataset.test_pictures=2", "block=1"),
    *("backbone.checkpoint=null", "callbacks.progress=null"),
]
DRAW = [
    *("task=samples", "labeller=learned/last.ckpt", "data.number=40", "data.shard_size=2"),
    *("data.batch_size=1", "sampler.respacing=ddim10"),
]


def start(folder: Path, door: str, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / f"{door}.py", *TINY, *words],
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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with a labeller, and what one rank draws with it when nobody stops it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words = ("task=pixel_mlp", "data.source=live", "model.members=2", "trainer.max_epochs=1")
    done(start(folder, "train", *words, "hydra.run.dir=learned", "trainer=cpu"))
    done(start(folder, "extract", *DRAW, "folder=whole", "trainer=cpu"))
    return folder


@pytest.mark.parametrize("trainer", ["cpu", "ddp_sim"])
def test_killed_labelling_goes_on_without_doubles(undisturbed, trainer):
    broken = undisturbed / trainer
    for goal in (1, 6):
        process = start(undisturbed, "extract", *DRAW, f"folder={broken}", f"trainer={trainer}")
        while len(list(broken.glob("samples_*.npz"))) < goal:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        kept = {path: path.read_bytes() for path in broken.glob("samples_*.npz")}
        assert len(kept) < 20
    done(start(undisturbed, "extract", *DRAW, f"folder={broken}", f"trainer={trainer}"))
    assert all(path.read_bytes() == before for path, before in kept.items())
    whole = contents(undisturbed / "whole")
    assert len([name for name in whole if name.startswith("samples_")]) == 20
    assert contents(broken) == whole


class Filled(pl.Callback):
    """Somebody else fills the disk when the second shard is on its way."""

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 1:
            free = os.statvfs(pl_module.folder)
            free = free.f_bavail * free.f_frsize
            (pl_module.folder.parent / "others").write_bytes(b"\0" * (free - 4096))


def test_a_disk_that_fills_in_mid_shard_keeps_the_whole_ones(small_disk):
    torch.manual_seed(0)
    net = GuidedUNet(16, 32, 1, channel_mult="1,1", attention_resolutions="8", name="tiny")
    width = net.shapes[1][0]
    labeller = lambda net: Labeller(  # noqa: E731
        PixelMLP(torch.optim.Adam, width, 3, members=2), net, 40, 1, image_size=16
    )
    data = SampleIndices(number=32, shard_size=8, batch_size=8)
    objective = Objective(variance="fixed_small")
    make = partial(Samples, net, partial(ddim, respacing="2"), objective, **data.facts)
    folder = small_disk / "samples"

    def draw(*callbacks):
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[*callbacks],
        )
        trainer.predict(make(folder=str(folder), labeller=labeller), data)

    with pytest.raises(UserError, match=r"Disk full: .*samples_000008-000015.npz") as refusal:
        draw(Filled())
    assert "\n" not in str(refusal.value)
    assert [path.name for path in folder.glob("samples_*")] == ["samples_000000-000007.npz"]
    assert not list(folder.glob("*.tmp"))
    (small_disk / "others").unlink()
    draw()
    assert len(list(folder.glob("samples_*"))) == 4
    with np.load(folder / "samples_000008-000015.npz") as arrays:
        assert list(arrays) == ["arr_0", "arr_1", "arr_2"]
