"""Runs killed at random, stopped, starved and doubled: they go on bit by bit, or say why not."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.faults.sittings import EXTRACT, TASKS, Sitting, learned, losses, same, step

pytestmark = pytest.mark.faults

KILLS = 8  # of each kind


class Straight(NamedTuple):
    """Runs that nobody disturbed, a store beside them."""

    folder: Path
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One run of each task."""
    folder = tmp_path_factory.mktemp("straight")
    store = [word for word in TASKS["dictionary"] if word.startswith(("backbone", "dataset"))]
    made = Sitting(folder, "extract", *store, "block=1", "split=train", "trainer=cpu")
    assert made.end() == 0, made.said
    seconds = {}
    for task, words in TASKS.items():
        run = Sitting(folder, "train", *words, f"hydra.run.dir={task}")
        assert run.end() == 0, run.said
        seconds[task] = time.perf_counter() - run.began
    return Straight(folder, seconds)


def train(folder: Path, task: str, features: Path = Path("features"), **how) -> Sitting:
    """A sitting of a run, which goes on from its own last checkpoint where there is one."""
    last = folder / "run/last.ckpt"
    goes_on = [f"ckpt_path={last}"] if last.exists() else []
    own = [f"hydra.run.dir={folder / 'run'}", f"paths.features={features}", *goes_on]
    if task == "codes":
        own.append(f"backbone.checkpoint={features.parent}/diffusion/last.ckpt")
    return Sitting(folder, "train", *TASKS[task], *own, **how)


def check(folder: Path, straight: Path) -> None:
    """The run has come to the very end of the one that nobody disturbed."""
    assert same(learned(folder / "run"), learned(straight))
    seen, whole = losses(folder / "run"), losses(straight)
    assert seen == {at: whole[at] for at in seen}
    assert max(seen) == max(whole)
    assert not list((folder / "run").glob("*.tmp"))


def tell(kind: str, rows: list[tuple[float, object, str]]) -> None:
    """The table of moments: seconds after the start, how far it was kept, and what came of it."""
    print(f"\n{kind}: {len(rows)} sittings")
    for moment, kept, came in rows:
        print(f"  {moment:5.2f} s  kept {kept!s:>4}  {came}")


@pytest.mark.parametrize("task", TASKS)
def test_a_training_killed_at_random_goes_on_bit_by_bit(straight, tmp_path, task):
    dice, rows, kills, life = random.Random(task), [], 0, 0
    features, whole = straight.folder / "features", straight.seconds[task]
    while kills < KILLS:
        life += 1
        folder = tmp_path / str(life)
        folder.mkdir()
        while not (folder / "run/results.json").exists():
            before, sitting = step(folder / "run"), train(folder, task, features)
            if kills < KILLS:
                sitting.process.join(max(0.0, dice.uniform(0.25, 0.9) * whole))
            code = sitting.send(signal.SIGKILL) if kills < KILLS else sitting.end()
            assert code in (-9, 0), sitting.said
            killed = code == -9  # else it was done before
            kills += killed
            after = step(folder / "run")
            came = f"killed, {after - before} steps won" if killed else "came to its end"
            rows.append((time.perf_counter() - sitting.began, after, came))
            assert after >= before
        check(folder, straight.folder / task)
    tell(task, rows)


def test_an_extraction_killed_at_random_goes_on(contents, tmp_path):
    dice, rows, kills, life = random.Random(0), [], 0, 0
    began = time.perf_counter()
    whole = Sitting(tmp_path, "extract", *EXTRACT, "hydra.run.dir=run")
    assert whole.end() == 0, whole.said
    seconds, wanted = time.perf_counter() - began, contents(tmp_path / "features")
    while kills < KILLS:
        life += 1
        folder = tmp_path / str(life)
        folder.mkdir()
        while True:
            sitting = Sitting(folder, "extract", *EXTRACT, "hydra.run.dir=run")
            if kills < KILLS:
                sitting.process.join(dice.uniform(0.2, 0.9) * seconds)
            code = sitting.send(signal.SIGKILL) if kills < KILLS else sitting.end()
            assert code in (-9, 0), sitting.said
            killed = code == -9  # else it was done before
            kills += killed
            kept = len(list(folder.glob("features/**/*.safetensors")))
            came = "killed" if killed else "came to its end"
            rows.append((time.perf_counter() - sitting.began, kept, came))
            if not killed:
                break
        assert contents(folder / "features") == wanted
    tell("extraction", rows)


@pytest.mark.parametrize("task", ["ensemble", "diffusion"])
def test_a_stopped_training_keeps_its_last_step(straight, tmp_path, task):
    """SIGTERM ends it with the batch, and with a checkpoint of that batch."""
    sitting = train(tmp_path, task)
    sitting.until((tmp_path / "run/last.ckpt").exists)
    assert sitting.send(signal.SIGTERM) == 143, sitting.said
    assert f"Go on with the same command and ckpt_path={tmp_path}/run/last.ckpt" in sitting.said
    assert "Traceback" not in sitting.said
    assert step(tmp_path / "run") == 1 + max(losses(tmp_path / "run"))
    sitting = train(tmp_path, task)
    assert sitting.end() == 0, sitting.said
    check(tmp_path, straight.folder / task)


@pytest.mark.parametrize("ahead", [86_400, -86_400])
def test_a_clock_that_jumps_between_two_sittings_changes_nothing(straight, tmp_path, ahead):
    sitting = train(tmp_path, "ensemble")
    sitting.until((tmp_path / "run/last.ckpt").exists)
    sitting.send(signal.SIGKILL)
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() + ahead, time.time() + ahead))
    clock = time.time

    def turn() -> None:
        time.time = lambda: clock() - ahead

    sitting = train(tmp_path, "ensemble", before=turn)
    assert sitting.end() == 0, sitting.said
    check(tmp_path, straight.folder / "ensemble")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    """While the first is at work, after it was killed, and when it has its results."""
    run = tmp_path / "run"
    words = [*TASKS["ensemble"], f"hydra.run.dir={run}", "seed=1"]
    first = train(tmp_path, "ensemble")
    first.until((run / "last.ckpt").exists)
    record = (run / ".hydra/overrides.yaml").read_text()
    second = Sitting(tmp_path, "train", *words)
    assert second.end() == 2, second.said
    assert "is the folder of a run that is still at work: wait for it or stop it" in second.said
    first.send(signal.SIGKILL)
    kept = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    again = Sitting(tmp_path, "train", *words)
    assert again.end() == 2, again.said
    assert f"go on from it with ckpt_path={run}/last.ckpt" in again.said
    assert all(path.read_bytes() == before for path, before in kept.items())
    assert train(tmp_path, "ensemble").end() == 0
    results = (run / "results.json").read_bytes()
    for door, *other in (
        ("train", *words),
        ("evaluate", f"ckpt_path={run}/last.ckpt", "trainer=cpu", f"hydra.run.dir={run}"),
    ):
        refused = Sitting(tmp_path, door, *other)
        assert refused.end() == 2, refused.said
        assert "holds another run already" in refused.said
    assert (run / ".hydra/overrides.yaml").read_text() == record
    assert (run / "results.json").read_bytes() == results


def test_a_disk_that_is_full_keeps_the_last_checkpoint(straight, small_disk, tmp_path):
    run, task = small_disk / "run", TASKS["ensemble"]
    words = [*task, f"hydra.run.dir={run}"]
    sitting = Sitting(tmp_path, "train", *words)
    sitting.until((run / "last.ckpt").exists)
    left = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"\0" * (left.f_bavail * left.f_frsize - 20_000))
    assert sitting.end() == 2, sitting.said
    told = [line for line in sitting.said.splitlines() if line.startswith("train: ")]
    assert len(told) == 1, sitting.said
    assert re.search(r"[Dd]isk .*full.*[Mm]ake room", told[0])
    assert "Traceback" not in sitting.said
    assert not list(run.glob("*.tmp"))
    reached = torch.load(run / "last.ckpt", weights_only=True)["global_step"]
    (small_disk / "filler").unlink()
    sitting = Sitting(tmp_path, "train", *words, f"ckpt_path={run}/last.ckpt")
    assert sitting.end() == 0, sitting.said
    assert 0 < reached < step(run)
    check(small_disk, straight.folder / "ensemble")


def test_a_folder_that_cannot_be_written_is_one_line(small_disk, tmp_path):
    run, task = small_disk / "run", TASKS["ensemble"]
    words = [*task, f"hydra.run.dir={run}"]
    sitting = Sitting(tmp_path, "train", *words)
    sitting.until((run / "last.ckpt").exists)
    sitting.send(signal.SIGKILL)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for place, way_on in (
        (run, f"ckpt_path={run}/last.ckpt"),
        (small_disk / "new", "seed=0"),
    ):
        refused = Sitting(tmp_path, "train", *task, f"hydra.run.dir={place}", way_on)
        assert refused.end() == 2, refused.said
        assert refused.said.count("\n") == 1, refused.said
        assert "Read-only file system" in refused.said
