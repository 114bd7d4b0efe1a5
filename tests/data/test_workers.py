"""Workers of a loader outlive signals to their whole group, and end with their parent's."""

import os
import signal

import pytest
from torch.utils.data import DataLoader

from diffdict.data.workers import end_with_parent, seed_worker


@pytest.mark.parametrize("init", [end_with_parent, seed_worker])
def test_a_worker_ends_by_its_parent_alone(init):
    batches = iter(DataLoader(range(64), num_workers=1, worker_init_fn=init))
    assert next(batches) == 0
    (worker,) = batches._workers
    for number in (signal.SIGTERM, signal.SIGINT):
        if os.fork() == 0:  # somebody else
            os.kill(worker.pid, number)
            os._exit(0)
        os.wait()
    assert [int(one) for one in batches] == [*range(1, 64)]

    batches = iter(DataLoader(range(64), num_workers=1, worker_init_fn=init))
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0
