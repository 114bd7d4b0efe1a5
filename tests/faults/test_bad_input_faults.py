"""A dozen of the bad inputs as real commands, in a folder of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
TINY = "trainer=cpu dataset.image_size=16 backbone.image_size=16 backbone.checkpoint=null"
SHOWN = "trainer=cpu trainer.log_every_n_steps=1"
WRONG = [
    ("train", "trainer.maxsteps=5", "Did you mean trainer.max_steps?"),
    ("train", "task=sae seed=0,1 -m sae=topkk", "Did you mean topk?"),
    ("train", f"{TINY} -m seed=-1", "seed is a whole number from 0"),
    ("train", "trainer=cpu trainer.devices=640", "at most"),
    ("train", f"{TINY} model.optimizer.lr=nan", "got nan: 1e-4, say"),
    (
        "train",
        f"dataset=folder dataset.path=pictures dataset.image_size=64 {SHOWN}",
        "0.png",
    ),
    ("train", "hydra.run.dir=file/run", "hydra.run.dir="),
    ("train", "ckpt_path=file", "fetch or save it again"),
    ("extract", "split=[] trainer=cpu", "split=[train,test]"),
    ("extract", "dataset=folder dataset.path=pictures block=0 trainer=cpu", "0.png"),
    ("extract", "task=samples sampler.respacing=ddim0 trainer=cpu", "ddim50"),
    ("evaluate", "runs=nowhere report=table", "runs=nowhere names no run"),
    ("evaluate", "ckpt_path=nowhere/last.ckpt", "nowhere/last.ckpt"),
]


@pytest.mark.parametrize(("door", "words", "said"), WRONG, ids=lambda value: str(value))
def test_a_mistake_ends_a_command_in_one_line(tmp_path, door, words, said):
    (tmp_path / "file").write_text("no folder, and no checkpoint\n")
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        (tmp_path / f"pictures/{i}.png").write_text("no picture")
    sizes = ["dataset.train_pictures=1", "dataset.test_pictures=1", "data.batch_size=1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{door}.py"), *words.split(), *sizes * ("folder" in words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"{door}: ")
    assert said in lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".tmp", ".npz")]
    assert not list(tmp_path.rglob("results.json"))
