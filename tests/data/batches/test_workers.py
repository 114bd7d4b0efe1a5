"""Workers of a loader outlive signals to their whole group, and end with their parent's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from diffdict.data.batches import workers
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("init", ["end_with_parent", "seed_worker"])
def test_a_worker_ends_by_its_parent_alone(init):
    """In a fresh process: what some libraries start in every fork takes signals for itself."""
    script = f"from tests.data.batches.test_workers import check; check('{init}')"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr


def check(init: str) -> None:
    """Signals from somebody else change nothing; the parent's ends the worker."""
    options = {"num_workers": 1, "worker_init_fn": getattr(workers, init)}
    batches = iter(DataLoader(range(64), **options))
    assert next(batches) == 0
    (worker,) = batches._workers
    for number in (signal.SIGTERM, signal.SIGINT):
        if os.fork() == 0:  # somebody else
            try:
                os.kill(worker.pid, number)
            finally:
                os._exit(0)
        os.wait()
    assert [int(one) for one in batches] == [*range(1, 64)]

    batches = iter(DataLoader(range(64), **options))
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(PATIENCE)
    assert worker.exitcode == 0
