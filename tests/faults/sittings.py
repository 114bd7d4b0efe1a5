"""Doors in processes forked from this one: their start costs a compose, not an import of torch."""

import csv
import multiprocessing
import os
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

import diffdict.run  # noqa: F401 - imported once, here
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
QUIET = ("trainer=cpu", "callbacks.progress=null", "trainer.log_every_n_steps=1")
SMALL = (
    *("backbone=guided_unet", "backbone.num_channels=32", "backbone.num_res_blocks=1"),
    *("backbone.channel_mult='1,1'", "backbone.attention_resolutions='16'"),
    *("backbone.image_size=16", "dataset.image_size=16", "dataset.test_pictures=2"),
)
EVERY = "callbacks.checkpoint.every_n_train_steps"
TASKS = {  # a run of seconds of each kind, with some dozens of checkpoints in it
    "dictionary": (
        *(*QUIET, *SMALL, "dataset.train_pictures=8", "task=sae", "sae=batch_topk", "block=1"),
        *("sae.scale=4", "sae.k=4", "sae.dead_after=500", "data.batch_size=64", "test=false"),
        *("data.val_pictures=1", "trainer.max_steps=160", "trainer.max_epochs=-1", f"{EVERY}=9"),
        *("model.ema_decay=0.9", "model.decay=cosine", "callbacks.dictionary=null"),
    ),
    "ensemble": (
        *(*QUIET, "task=pixel_mlp", "backbone=pixels", "timestep=null", "block=pixels"),
        *("data.source=live", "dataset.image_size=16", "dataset.train_pictures=4", "test=false"),
        *("dataset.test_pictures=2", "model.members=4", "trainer.max_epochs=12", f"{EVERY}=9"),
        *("model.patience=20", "model.patience_from=2"),
    ),
    "diffusion": (
        *(*QUIET, *SMALL, "dataset.train_pictures=10", "dataset.val_pictures=2", "test=false"),
        *("data.batch_size=2", "data.num_workers=0", "data.flip=true", "callbacks.samples=null"),
        *("trainer.max_steps=28", f"{EVERY}=4", "model.warmup_steps=5", "model.ema_decay=0.9"),
    ),
    "codes": (  # over the network of the run above
        *(*QUIET, *SMALL, "task=pdae", "backbone.checkpoint=diffusion/last.ckpt", "test=false"),
        *("dataset.train_pictures=10", "dataset.val_pictures=2", "data.flip=true"),
        *("data.batch_size=2", "data.num_workers=0", "callbacks.codes=null", f"{EVERY}=4"),
        *("model.encoder.code=8", "model.segments={number:4}", "trainer.max_steps=28"),
    ),
}
EXTRACT = (
    *("trainer=cpu", "callbacks.progress=null", *SMALL, "dataset.train_pictures=96"),
    *("split=train", "block=[0,1]", "timestep=[50,150]", "data.num_workers=0", "data.batch_size=1"),
)


class Sitting:
    """One process at work, until it ends or is ended."""

    def __init__(
        self, folder: Path, door: str, *words: str, before: Callable[[], object] = lambda: None
    ) -> None:
        """`before` is called in the process, before the door opens."""
        self.log = folder / f"{len(list(folder.glob('*.said')))}.said"
        self.log.touch()
        self.began = time.perf_counter()
        self.process = multiprocessing.get_context("fork").Process(
            target=_sit, args=(folder, self.log, door, words, before)
        )
        self.process.start()

    @property
    def said(self) -> str:
        """All that it printed until now."""
        return self.log.read_text()

    def end(self) -> int:
        """The exit code, when it has come to its end."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, self.said
        return self.process.exitcode

    def send(self, number: int) -> int:
        """The exit code, after a signal."""
        if self.process.is_alive():  # nobody else has waited for it: its number is still its own
            os.kill(self.process.pid, number)
        return self.end()

    def until(self, come: Callable[[], object]) -> None:
        """Waits until this has come, while the process works."""
        while not come():
            assert self.process.is_alive(), self.said
            time.sleep(0.002)


def break_shards(folder: Path, words: tuple, shards: str, number: int, goals: tuple) -> Path:
    """Ends a drawing when so many shards are there, as often as there are goals, then completes it.

    The folder that it left, in which no finished shard was touched again.
    """
    broken = folder / f"broken_{signal.Signals(number).name}"
    words = (*words, f"folder={broken}", "trainer=cpu")
    before: dict[Path, bytes] = {}
    for goal in goals:
        sitting = Sitting(folder, "extract", *words)
        sitting.until(lambda goal=goal: len(list(broken.glob(shards))) >= goal)
        code = sitting.send(number)
        assert code == (-9 if number == signal.SIGKILL else 143), sitting.said
        before = {path: path.read_bytes() for path in broken.glob(shards)}
        assert 0 < len(before) < 20
    sitting = Sitting(folder, "extract", *words)
    assert sitting.end() == 0, sitting.said
    assert all(path.read_bytes() == content for path, content in before.items())
    return broken


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _sit(folder: Path, log: Path, door: str, words: tuple, before: Callable) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    sys.argv = [str(ROOT / f"{door}.py"), *words]
    warnings.simplefilter("ignore")
    before()
    runpy.run_path(sys.argv[0], run_name="__main__")


def losses(run: Path) -> dict[int, str]:
    """Of every step that any sitting has logged; each step says one thing."""
    found: dict[int, str] = {}
    for path in run.glob("metrics*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(line for line in file if line.endswith("\n")):
                if row.get("train/loss"):
                    step, loss = int(row["step"]), row["train/loss"]
                    assert found.setdefault(step, loss) == loss, f"step {step} was learned twice"
    return found


def step(run: Path) -> int:
    """How far its last checkpoint is; 0 without one."""
    last = run / "last.ckpt"
    return torch.load(last, weights_only=True)["global_step"] if last.exists() else 0


def learned(run: Path) -> dict:
    """All of its last checkpoint that says what was learned, and where the stream stands."""
    kept = torch.load(run / "last.ckpt", weights_only=True)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
    module = {key: kept[key] for key in kept if key.endswith("DataModule")}
    return {part: kept[part] for part in parts} | module


def same(ours: object, theirs: object) -> bool:
    """Bit by bit."""
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs
