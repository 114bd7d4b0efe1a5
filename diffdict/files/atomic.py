"""Writes that are whole or absent, and what a disk says when it cannot hold them."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from diffdict.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
WRONG_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG}


def human_bytes(n: int) -> str:
    """A number of bytes as a person says it: 1.2 GB."""
    size = float(n)
    for unit in ("B", "KB", "MB", "GB"):
        if size < (1000 if unit == "B" else 999.95):  # 999.95 would be printed as 1000.0
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def free_bytes(path: str | Path) -> int:
    """Bytes free on the disk that holds this path, which need not exist yet."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_space(path: str | Path, bytes: int, what: str) -> None:
    """Nothing, or a UserError when the disk of this path cannot hold that many bytes."""
    free = free_bytes(path)
    if free < bytes:
        raise UserError(
            f"No room for {what} at {path}: it needs {human_bytes(bytes)}, "
            f"{human_bytes(free)} are free. Make room there or choose another folder."
        )


@contextmanager
def plain_disk_errors(path: str | Path, need: int | None = None) -> Iterator[None]:
    """A full disk, a read-only folder or a wrong place becomes a UserError that names this path."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            wanted = f" needs {human_bytes(need)} and" if need is not None else ""
            raise UserError(
                f"Disk full: {path}{wanted} found only {human_bytes(free_bytes(path))} free. "
                f"Make room there or choose another folder."
            ) from error
        if error.errno in REFUSED:
            raise UserError(
                f"Cannot write {path}: {error.strerror}. "
                f"Choose a folder that you may write in, or change its permissions."
            ) from error
        if error.errno in WRONG_PLACE:
            raise UserError(
                f"Cannot write {path}: {error.strerror}. Choose another name or folder."
            ) from error
        raise


def writable_folder(path: str | Path) -> Path:
    """The folder, made when it is missing, after a file could be written in it."""
    path = Path(path)
    with plain_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = temporary(path / "probe")
        try:  # access() lies on read-only mounts and to root, so write
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
    return path


def temporary(path: str | Path) -> Path:
    """A name beside the final one that no other process will choose."""
    path = Path(path)
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")


def publish(temp: str | Path, path: str | Path) -> Path:
    """The finished temporary file or folder, safe on disk under its final name; else removed."""
    temp, path = Path(temp), Path(path)
    try:
        with plain_disk_errors(path):
            fsync(temp)
            os.replace(temp, path)
            fsync(path.parent)
    except BaseException:
        remove(temp)
        raise
    return path


def write_atomic(path: str | Path, data: bytes | Callable[[BinaryIO], object]) -> Path:
    """The file with these bytes (or with what the callable writes), whole or not at all."""
    path = Path(path)
    need = None if callable(data) else len(data)
    temp = temporary(path)
    try:
        with plain_disk_errors(path, need):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temp.open("xb") as file:
                data(file) if callable(data) else file.write(data)
        return publish(temp, path)
    except BaseException:
        remove(temp)
        raise


def sha256(path: str | Path) -> str:
    """The file's SHA-256 in hexadecimal, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """This file's bytes, or this folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """The file or folder gone, if it was there and can go."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def console() -> Console:
    """Where progress and notices go: standard error, so that results can be piped."""
    return Console(stderr=True)


def bytes_bar(title: str) -> Progress:
    """A progress bar in bytes, with rate and time left, holding one task."""
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console())
    bar.add_task(title, total=None)
    return bar
