"""Extractions in processes of their own, forked from this one: starting them costs nothing."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.data.toy_faces import ToyFaces
from diffdict.features.extraction.pictures import ExtractionPictures
from diffdict.features.extraction.writer import FeatureWriter
from diffdict.features.noise import Noise
from diffdict.features.store import FeatureStore
from diffdict.tasks.features import Features
from tests.processes import PATIENCE

PICTURES = 48  # three a shard: 16 shards of five streams


class Rank(pl.Trainer):
    """A trainer that takes itself for one of several ranks."""

    rank, world = 0, 1

    @property
    def global_rank(self) -> int:
        return self.rank

    @property
    def world_size(self) -> int:
        return self.world


class Diary(pl.Callback):
    """Notes every picture that is computed, and calls something before each batch."""

    def __init__(self, path: Path | None, before: Callable[[int], object] | None):
        self.path, self.before = path, before

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.before is not None:
            self.before(batch_idx)
        if self.path is not None:
            line = "".join(f"{index}\n" for index in batch["index"].tolist())
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())


def extract(root, rank=0, world=1, seed=0, diary=None, before=None, steps=(50, 150)):
    """The toy faces through a tiny U-Net, by trainer, task and writer."""
    torch.manual_seed(0)
    net = GuidedUNet(16, 32, 1, channel_mult="1,1", attention_resolutions="8", name="tiny")
    pictures = ExtractionPictures(
        lambda split: ToyFaces(split, image_size=16, train_pictures=PICTURES), 3, split="train"
    )
    trainer = Rank(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[FeatureWriter(root), Diary(diary, before)],
    )
    trainer.rank, trainer.world = rank, world
    trainer.predict(Features(net, steps, [0, 1], Noise(seed=seed)), pictures)


class Ended(NamedTuple):
    """How processes ended."""

    codes: list[int]
    said: str  # all that they printed


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """`start(root, rank=0, world=2)` begins an extraction in a process of its own."""
    context = multiprocessing.get_context("fork")
    logs = tmp_path_factory.mktemp("logs")

    def begin(root, **how):
        log = logs / str(len([*logs.iterdir()]))
        log.touch()
        process = context.Process(target=_told, args=(log, root, how))
        process.start()
        process.log = log
        return process

    return begin


def _told(log: Path, root: Path, how: dict) -> None:
    """The extraction, its words into a file."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    extract(root, **how)


def ended(processes: list) -> Ended:
    for process in processes:
        process.join(PATIENCE)
    said = "".join(process.log.read_text() for process in processes)
    return Ended([process.exitcode for process in processes], said)


@pytest.fixture(scope="session")
def run(start):
    """`run(root, world=2)` extracts to the end, every rank in a process of its own."""
    return lambda root, world=1, **how: ended(
        [start(root, rank=rank, world=world, **how) for rank in range(world)]
    )


@pytest.fixture(scope="session")
def both(start):
    """`both(root, {}, {"seed": 1})` extracts twice at once into the same folder."""
    return lambda root, *hows: ended([start(root, **how) for how in hows])


@pytest.fixture(scope="session")
def contents():
    """`contents(root)`: the hash of every file under it."""

    def read(root: Path) -> dict[str, str]:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    return read


@pytest.fixture(scope="session")
def undisturbed(run, contents, tmp_path_factory):
    """What one process writes when nothing happens to it: its folder and the hashes."""
    root = tmp_path_factory.mktemp("undisturbed") / "features"
    assert run(root).codes == [0]
    return root, contents(root)


@pytest.fixture(scope="session")
def open_store():
    return lambda root: FeatureStore.open(root / "toy_faces" / "tiny" / "train")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)
