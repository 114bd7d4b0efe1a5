"""extract.py under signals: it stops within a batch, says so, and goes on where it stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffdict.features.store import FeatureStore
from tests.processes import PATIENCE

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
TINY = [
    "backbone=guided_unet",
    "backbone.num_channels=32",
    "backbone.num_res_blocks=1",
    "backbone.channel_mult='1,1'",
    "backbone.attention_resolutions='16'",
    "dataset.image_size=32",
    "block=[0,1,2]",
    "dataset.train_pictures=96",
    "split=train",
    "data.num_workers=1",
    "data.batch_size=1",
]


def door(features: Path, *overrides: str) -> subprocess.Popen:
    """`python extract.py` on a small network with fresh weights."""
    arguments = [f"paths.features={features}", f"hydra.run.dir={features.parent / 'run'}"]
    return subprocess.Popen(
        [sys.executable, ROOT / "extract.py", *TINY, *arguments, *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=features.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def contents(features: Path) -> dict[str, bytes]:
    files = [path for path in features.rglob("*") if path.is_file()]
    return {str(path.relative_to(features)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What one rank writes when nobody stops it."""
    features = tmp_path_factory.mktemp("undisturbed") / "features"
    process = door(features, "trainer=cpu")
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, said
    return contents(features)


def shards(features: Path) -> int:
    return len([*features.rglob("t0050-b02/*.safetensors")])


def wait_for_a_shard(process: subprocess.Popen, features: Path) -> None:
    while not shards(features):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("trainer", "number", "code"),
    [
        ("cpu", signal.SIGTERM, 143),
        ("cpu", signal.SIGINT, 130),
        ("ddp_sim", signal.SIGTERM, 143),
        ("ddp_sim", signal.SIGKILL, -9),
    ],
)
def test_a_stopped_extraction_goes_on(undisturbed, tmp_path, trainer, number, code):
    features = tmp_path / "features"
    process = door(features, f"trainer={trainer}")
    wait_for_a_shard(process, features)
    process.send_signal(number)
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == code, said
    if number != signal.SIGKILL:
        assert "Run the same command again: what is finished is kept." in said
        assert "Traceback" not in said
    assert shards(features) < 16
    again = door(features, f"trainer={trainer}")
    said = again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == 0, said
    store = FeatureStore.open(features / "toy_faces" / "guided_unet" / "train")
    assert "80 shards" in store.verify()
    assert contents(features) == undisturbed
