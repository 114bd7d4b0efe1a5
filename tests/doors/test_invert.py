"""Pictures into noise and back through the door: resumed, drawn from, and on two ranks."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.doors import FACES, NET, QUIET, ROOT, open_door

WORDS = [*QUIET, *NET, *FACES, "dataset.test_pictures=5"]
INVERT = [*WORDS, "task=invert", "sampler.respacing=ddim5", "data.num_workers=0"]
CUT = ["data.shard_size=2", "data.batch_size=2"]


def shards(folder):
    """Each file's arrays as bytes, by the file's name."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            found[path.name] = {name: arrays[name].tobytes() for name in arrays.files}
    return found


@pytest.fixture(scope="module")
def inverted(tmp_path_factory):
    """A folder with the noise of five faces, and what the door said."""
    folder = tmp_path_factory.mktemp("inverted")
    done = subprocess.run(
        [sys.executable, str(ROOT / "extract.py"), *INVERT, *CUT],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_table_says_the_error_beside_its_floors(inverted):
    folder, said = inverted
    for word in ("picture and back", "rounded to 8 bits", "from another picture's noise"):
        assert word in said
    assert "5 pictures, 8 steps each, in " in said
    noise = folder / "noise/toy_faces/toy_ddpm/test"
    names = {path.name for path in noise.iterdir()}
    assert {"noise.json", "round_trip.csv", "round_trip.png"} < names
    assert str(noise.relative_to(folder)) in said


def test_a_second_command_makes_what_is_missing(inverted, capfd):
    folder = inverted[0]
    noise = folder / "noise/toy_faces/toy_ddpm/test"
    before = shards(noise)
    (noise / "noise_000002-000003.npz").unlink()
    assert open_door("extract", [*INVERT, *CUT], folder, capfd).code == 0
    assert shards(noise) == before


def test_samples_start_from_the_noise_with_its_facts(inverted, capfd):
    folder = inverted[0]
    words = ["task=samples", "start=noise/toy_faces/toy_ddpm/test"]
    assert open_door("extract", [*WORDS, *words, "data.batch_size=2"], folder, capfd).code == 0
    drawn = sorted((folder / "samples/toy_ddpm_toy_faces_test").glob("*.npz"))
    back = sorted((folder / "noise/toy_faces/toy_ddpm/test").glob("*.npz"))
    assert len(drawn) == len(back) == 3
    for ours, theirs in zip(drawn, back, strict=True):
        pair = np.load(ours)["arr_0"].astype(int), np.load(theirs)["images"]
        assert np.abs(pair[0] - pair[1]).max() <= 1
    typed = ["data.number=1", "sampler.clip_denoised=true", "folder=first"]
    assert open_door("extract", [*WORDS, *words, *typed], folder, capfd).code == 0
    assert [len(np.load(path)["arr_0"]) for path in (folder / "first").glob("*.npz")] == [1]
    assert '"clip_denoised": "True"' in (folder / "first/samples.json").read_text()


def test_the_pictures_back_are_a_set_of_pictures(inverted, capfd):
    folder = inverted[0]
    words = ["dataset=npz", "dataset.path=noise/toy_faces/toy_ddpm/test", "dataset.image_size=16"]
    words += [*QUIET, *NET, "backbone=toy_ddpm", "block=1", "split=train", "data.num_workers=0"]
    words += ["dataset.train_pictures=5"]
    closed = open_door("extract", words, folder, capfd)
    assert closed.code == 0, closed.lines


@pytest.mark.faults
def test_two_ranks_invert_what_one_does(tmp_path):
    made = {}
    for trainer in ("cpu", "ddp_sim"):
        words = [*INVERT, *CUT, f"trainer={trainer}", f"folder={trainer}"]
        done = subprocess.run(
            [sys.executable, str(ROOT / "extract.py"), *words],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        made[trainer] = shards(tmp_path / trainer)
    assert len(made["cpu"]) == 3
    assert made["cpu"] == made["ddp_sim"]
