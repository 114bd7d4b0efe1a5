"""Folders that are whole or absent, whole again when written anew, and names still free."""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from diffdict.files.atomic import fsync, plain_disk_errors, publish, remove, temporary

HERE = -100  # AT_FDCWD
EXCHANGE = 2  # RENAME_EXCHANGE, of Linux's renameat2


def write_folder(path: str | Path, contents: Mapping[str, bytes]) -> Path:
    """The folder with these files and no others; one that was there stays until it is replaced."""
    path = Path(path)
    temp = temporary(path)
    try:
        with plain_disk_errors(path, sum(map(len, contents.values()))):
            temp.mkdir(parents=True)
            for name, data in contents.items():
                (temp / name).write_bytes(data)
                fsync(temp / name)
            if not path.is_dir():
                return publish(temp, path)
            fsync(temp)
            exchange(temp, path)
            fsync(path.parent)
        return path
    finally:
        remove(temp)  # what was left unfinished, or the old folder


def unused(path: str | Path) -> Path:
    """The path; where it is taken, the first free one of NAME-2, NAME-3, …"""
    path, number = Path(path), 1
    free = path
    while free.exists() or free.is_symlink():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def fresh(path: str | Path) -> Path:
    """A folder that this process has made: the path, or the first of NAME-2, NAME-3, … it could."""
    path, number = Path(path), 1
    path.parent.mkdir(parents=True, exist_ok=True)
    free = path
    while not _made(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _made(path: Path) -> bool:
    """Whether it was this process; another may have been quicker by a moment."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def exchange(one: Path, other: Path) -> None:
    """Two folders swap their names: in one step where the system can, else one after the other."""
    libc = ctypes.CDLL(None)
    names = HERE, os.fsencode(one), HERE, os.fsencode(other)
    if hasattr(libc, "renameat2") and libc.renameat2(*names, EXCHANGE) == 0:
        return
    away = temporary(other)
    os.replace(other, away)
    os.replace(one, other)
    os.replace(away, one)
