"""The arrays inside .npz files, read where they lie: nothing is in memory until asked for."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from jaxtyping import Shaped

from diffdict.data.pictures import cache_folder
from diffdict.errors import UserError
from diffdict.files import require_space, write_atomic

# of an archive, of what is compressed in it, of one with a password or a foreign compression
BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError)
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Member(NamedTuple):
    """Where an array lies in a file; thousands of them hold no file open."""

    path: Path
    dtype: np.dtype
    start: int  # the byte of its first element
    shape: tuple[int, ...]
    order: str  # C or F

    def map(self) -> np.memmap:
        """The array, mapped: microseconds, whatever its size."""
        return np.memmap(self.path, self.dtype, "r", self.start, self.shape, self.order)

    def __getitem__(self, row: int) -> Shaped[np.ndarray, "..."]:
        """One entry along the first axis, copied out."""
        return np.array(self.map()[row])


def members(path: Path) -> set[str]:
    """The names of the arrays in a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy") for name in names}
    except BROKEN as error:
        raise _broken(path, error) from error


def find_member(path: Path, name: str) -> Member:
    """One array: where it lies in the archive, or decoded once into the cache folder.

    The cache is for compressed members; it is named by the file's path, size and time.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                return _stored(path, archive, info)
            return _decoded(path, archive, info)
    except UserError:
        raise
    except BROKEN as error:
        raise _broken(path, error) from error


def _stored(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    with archive.open(info) as member:
        shape, order, dtype = _header(member, info.file_size)
        inside = member.tell()
    with path.open("rb") as file:  # a local header ends with two lengths, then name, extra
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), dtype="<u2")
    start = info.header_offset + 30 + int(lengths.sum()) + inside
    return Member(path, dtype, start, shape, order)


def _decoded(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    stat = path.stat()
    facts = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    key = xxhash.xxh3_128_hexdigest(facts.encode())
    decoded = cache_folder() / "npz" / f"{key}-{info.filename}"
    if not decoded.exists():
        require_space(decoded, info.file_size, f"{info.filename} of {path}, decoded")
        with archive.open(info) as member:
            write_atomic(decoded, lambda file: _pour(member, file))
    with decoded.open("rb") as file:
        shape, order, dtype = _header(file, info.file_size)
        return Member(decoded, dtype, file.tell(), shape, order)


def _header(member: object, size: int) -> tuple[tuple[int, ...], str, np.dtype]:
    read = HEADERS.get(version := np.lib.format.read_magic(member))
    if read is None:
        raise ValueError(f"an array of format {version}")
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not opened")
    length, there = math.prod(shape) * dtype.itemsize, size - member.tell()
    if min(shape, default=0) < 0 or length > there:
        raise ValueError(f"an array of shape {shape} and {dtype} in {there} bytes")
    return shape, "F" if fortran else "C", dtype


def _pour(source: zipfile.ZipExtFile, target: object) -> None:
    for piece in iter(lambda: source.read(1 << 20), b""):
        target.write(piece)


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no whole .npz file ({error}): fetch or write it again")
