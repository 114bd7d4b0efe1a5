"""Every test begins alike, leaves nothing behind, and is reported without accident.

So they pass in any order, in any number of processes, and beside whatever else a machine does.
"""

import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

OF_PYTEST = ("PYTEST_CURRENT_TEST",)
OF_TORCH = (signal.SIGCHLD,)  # taken over with the first worker of a loader, for good
# what torch, Lightning and Hydra set of their own in a process, at their first use in it
OF_LIBRARIES = (
    *("TORCHINDUCTOR_", "TRITON_", "MASTER_", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"),
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # Lightning, when it is first imported
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The same dice, before any fixture is made, whichever test came before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what workers and other libraries draw from
    torch.manual_seed(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: what parses Python does so in here.

    CPython 3.11 counts the depth of all syntax trees in one place (gh-106905). A collection in the
    midst of a parse calls destructors, and lets other threads go on. One that prints a traceback,
    which parses too, sets the count anew, and the first parse ends in "SystemError: AST
    constructor recursion depth mismatch".
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator:
    """To print a failure, pytest parses whole files."""
    with uncollected():
        return (yield)


def state() -> dict[str, object]:
    """All that a test could change for those that follow in its process."""
    root = logging.getLogger()
    signals = signal.valid_signals() - set(OF_TORCH)
    return {
        "os.environ": {k: v for k, v in os.environ.items() if k not in OF_PYTEST},
        "the folder": Path.cwd(),
        "sys.argv": list(sys.argv),
        "sys.path": list(sys.path),
        "the recursion limit": sys.getrecursionlimit(),
        "garbage collection": gc.isenabled(),
        "handlers of signals": {number: signal.getsignal(number) for number in signals},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "disabled logs": root.manager.disable,
        "Hydra": GlobalHydra.instance().is_initialized(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch's determinism": torch.are_deterministic_algorithms_enabled(),
        "torch's process group": torch.distributed.is_initialized(),
        # daemons end by themselves: a loader's workers with their iterator, whenever that is freed
        "processes": {one.pid for one in multiprocessing.active_children() if not one.daemon},
        "threads": {thread for thread in threading.enumerate() if not thread.daemon},
    }


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """A test that changes what others rely on has failed, and they have not."""
    root = logging.getLogger()
    before, level = state(), root.level
    yield
    root.setLevel(level)  # Hydra's, for good, and so is its file in the folder of a run
    for log in [handler for handler in root.handlers if type(handler) is logging.FileHandler]:
        root.removeHandler(log)
        log.close()
    for name in set(os.environ) - set(before["os.environ"]):
        if name.startswith(OF_LIBRARIES):
            del os.environ[name]
    for thread in state()["threads"] - before["threads"]:
        thread.join(10)  # of a pool that was told to end, and needs a moment
    after = state()
    changed = [name for name in before if after[name] != before[name]]
    said = "; ".join(f"{name}: {_difference(before[name], after[name])}" for name in changed)
    assert not changed, f"left behind: {said}"


def _difference(before: object, after: object) -> str:
    if isinstance(before, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return ", ".join(f"{key} {before.get(key)!r} → {after.get(key)!r}" for key in keys)
    return f"{before!r} → {after!r}"
