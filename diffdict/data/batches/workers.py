"""How the processes that load pictures start and end."""

import os
import random
import signal
import threading

import numpy as np
import torch


def seed_worker(worker: int) -> None:
    """Python's and NumPy's generators follow the seed that torch gave this worker."""
    end_with_parent(worker)
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002 - it is the global one we seed


def end_with_parent(worker: int) -> None:
    """Signals to a whole group of processes are its parent's to answer, who still needs batches.

    To ignore SIGTERM would be too much: it is also how a parent ends a worker that is stuck.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
