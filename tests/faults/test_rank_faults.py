"""Two ranks that are stopped leave together: at one step, with one checkpoint."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from diffdict.features.store import FeatureStore
from tests.faults.sittings import EVERY, EXTRACT, ROOT, TASKS, Sitting, learned, losses, same, step
from tests.processes import PATIENCE

pytestmark = pytest.mark.faults

CODE = {signal.SIGTERM: 143, signal.SIGINT: 130}
TRAIN = (
    *(*TASKS["diffusion"], "trainer=ddp_sim", "data.num_workers=1"),
    *("trainer.max_steps=14", "trainer.check_val_every_n_epoch=4", f"{EVERY}=3"),
)


def ranks(folder: Path, door: str, *words: str) -> list[Sitting]:
    """Both, in the environment that torchrun would make for them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def become(rank: str) -> Callable[[], None]:
        own = {**shared, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0"}
        return lambda: os.environ.update(own)

    return [Sitting(folder, door, *words, before=become(rank)) for rank in "01"]


@pytest.fixture(autouse=True)
def nobody_waits_for_ever():
    """A rank that hangs is no reason for the tests to."""
    yield
    for process in multiprocessing.active_children():
        process.kill()


def train(folder: Path) -> list[Sitting]:
    last = folder / "run/last.ckpt"
    goes_on = [f"ckpt_path={last}"] if last.exists() else []
    return ranks(folder, "train", *TRAIN, f"hydra.run.dir={folder / 'run'}", *goes_on)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    for rank in train(folder):
        assert rank.end() == 0, rank.said
    return folder / "run"


def check_stopped(folder: Path, before: int, said: str) -> None:
    """Every step that was learned is kept, and told once."""
    assert "Traceback" not in said
    assert said.count("ckpt_path=") == 1, said
    assert before < step(folder / "run") == 1 + max(losses(folder / "run"))


def test_a_training_stopped_on_all_ranks_or_one_goes_on_bit_by_bit(straight, tmp_path):
    run = tmp_path / "run"
    for number, whom in ((signal.SIGTERM, (1,)), (signal.SIGINT, (0, 1))):
        before, both = step(run), train(tmp_path)
        both[0].until(lambda before=before: step(run) > before)
        for rank in whom:
            os.kill(both[rank].process.pid, number)
        assert [rank.end() for rank in both] == [CODE[number]] * 2, both[0].said + both[1].said
        check_stopped(tmp_path, before, both[0].said + both[1].said)
    for rank in train(tmp_path):
        assert rank.end() == 0, rank.said
    assert same(learned(run), learned(straight))
    seen, whole = losses(run), losses(straight)
    assert seen == {at: whole[at] for at in seen}
    assert max(seen) == max(whole)


def test_a_signal_to_everything_that_lightning_started(straight, tmp_path):
    """To the loaders' workers as well, as a terminal and SLURM send it."""
    words = (*TRAIN, "hydra.run.dir=run")
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        while not step(tmp_path / "run"):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[0]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143, said
    check_stopped(tmp_path, 0, said)
    seen, whole = losses(tmp_path / "run"), losses(straight)
    assert seen == {at: whole[at] for at in seen}


def test_an_extraction_stopped_on_all_ranks_goes_on(contents, tmp_path):
    words = (*EXTRACT, "trainer=ddp_sim", "data.num_workers=1", "hydra.run.dir=run")
    both = ranks(tmp_path, "extract", *words)
    both[0].until(lambda: list(tmp_path.rglob("t0050-b01/*.safetensors")))
    for rank in both:
        os.kill(rank.process.pid, signal.SIGTERM)
    assert [rank.end() for rank in both] == [143] * 2, both[0].said + both[1].said
    assert "Traceback" not in both[0].said + both[1].said
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    for rank in ranks(tmp_path, "extract", *words):
        assert rank.end() == 0, rank.said
    assert all(path.read_bytes() == before for path, before in kept.items())
    assert "96 shards" in FeatureStore.open(*tmp_path.glob("features/*/*/train")).verify()
