"""A folder for one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffdict.errors import UserError

HELD: dict[str, int] = {}  # folders that this process has for itself, open while it does


def _let_go() -> None:
    """In a process that was forked from this one: what is held ends with its own process."""
    for handle in HELD.values():
        os.close(handle)
    HELD.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def exclusive_folder(folder: str | Path) -> Iterator[None]:
    """The folder for this process until it is done with it, or is gone; a second is refused.

    A lock on the folder itself: nothing is written, and no kill leaves it behind.
    """
    key = os.path.realpath(folder)
    if key in HELD or not os.path.isdir(key):
        yield
        return
    handle = _locked(key)
    if handle is None:
        raise UserError(
            f"{folder} is the folder of a run that is still at work: wait for it or stop it, or "
            "give another hydra.run.dir=… (of a sweep hydra.sweep.dir=…)"
        )
    HELD[key] = handle
    try:
        yield
    finally:
        if HELD.get(key) == handle:
            os.close(HELD.pop(key))


def busy(folder: str | Path) -> bool:
    """Whether another process has it."""
    key = os.path.realpath(folder)
    if key in HELD or not os.path.isdir(key):
        return False
    handle = _locked(key)
    if handle is not None:
        os.close(handle)
    return handle is None


def _locked(folder: str) -> int | None:
    """The folder opened and locked; None where another process has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # a file system that knows no locks
        pass
    return handle
