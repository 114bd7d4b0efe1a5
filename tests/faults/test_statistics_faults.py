"""Statistics of features under kills: the file is whole or not there."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from diffdict.metrics.frechet import Statistics
from diffdict.results.inputs.feature_statistics import read_statistics, write_statistics
from tests.processes import PATIENCE

pytestmark = pytest.mark.faults

DIM = 400


def write_on_and_on(path: Path, begun: Path) -> None:
    """The same file again and again, each time of another number."""
    for number in range(10_000):
        same = Statistics(torch.full((DIM,), number).double(), torch.eye(DIM).double() * number)
        begun.touch()
        write_statistics(path, same, {"number": number}, torch.full((DIM, DIM), float(number)))


@pytest.mark.parametrize("wait", [0.0, 0.01, 0.02, 0.04])
def test_a_killed_write_leaves_a_whole_file_or_none(tmp_path, wait):
    path, begun = tmp_path / "real.npz", tmp_path / "begun"
    process = multiprocessing.get_context("fork").Process(
        target=write_on_and_on, args=(path, begun)
    )
    process.start()
    end = time.monotonic() + PATIENCE
    while not begun.exists() and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(wait)
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    if path.exists():
        file = read_statistics(path)
        number = file.provenance["number"]
        assert {int(x) for x in (file.statistics.mu[-1], file.rows[-1, -1])} == {number}
    write_statistics(path, Statistics(torch.zeros(2).double(), torch.eye(2).double()))
    assert read_statistics(path).provenance is None
