"""Archives unpacked with suspicion: plain files inside one new folder, or nothing."""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from diffdict.errors import UserError
from diffdict.files.atomic import (
    bytes_bar,
    human_bytes,
    plain_disk_errors,
    publish,
    remove,
    require_space,
    temporary,
    writable_folder,
)

CHUNK = 1 << 20  # bytes moved at a time
HEADER = 16 << 20  # an archive's header larger than this is an attack on memory
BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)

# name in the archive, announced size, contents of a file
ArchiveMember = tuple[str, int, BufferedIOBase | None]


def unpack(archive: str | Path, folder: str | Path) -> Path:
    """The tar or zip archive as a new folder: plain files inside it, all of them or none."""
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already: move it away to unpack {archive} there.")
    writable_folder(folder.parent)
    temp = temporary(folder)
    try:
        with (
            plain_disk_errors(folder),
            archive.open("rb") as raw,
            bytes_bar(archive.name) as progress,
        ):
            temp.mkdir()
            progress.update(progress.task_ids[0], total=archive.stat().st_size)
            members = _zip_members if raw.read(2) == b"PK" else _tar_members
            for name, size, file in members(raw, archive):
                _write_member(temp, name, size, file, archive)
                progress.update(progress.task_ids[0], completed=raw.tell())
            progress.update(progress.task_ids[0], completed=archive.stat().st_size)
        os.sync()  # thousands of small files: one call, not one a file
        return publish(temp, folder)
    except FileNotFoundError as error:
        raise UserError(f"No archive at {archive} to unpack into {folder}.") from error
    except BROKEN_ARCHIVE as error:
        raise UserError(f"{archive} is damaged: {error}. Remove it and fetch it again.") from error
    finally:
        remove(temp)


def _zip_members(raw: BufferedIOBase, archive: Path) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(raw) as pack:
        infos = pack.infolist()
        require_space(archive, sum(info.file_size for info in infos), f"what {archive} holds")
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 1:
                raise _refused(archive, info.filename, "is encrypted")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, info.filename, "is a link or a device")
            yield info.filename, info.file_size, None if info.is_dir() else pack.open(info)


class _Careful:
    """A stream that will not read a header of gigabytes into memory."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int) -> bytes:
        """The next bytes, never more than HEADER at once."""
        if size > HEADER:
            raise tarfile.ReadError(f"a header of {human_bytes(size)}")
        return self._read(size)


def _tar_members(raw: BufferedIOBase, archive: Path) -> Iterator[ArchiveMember]:
    raw.seek(0)
    magic = raw.read(6)
    raw.seek(0)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    stream = next((do(raw) for mark, do in openers.items() if magic.startswith(mark)), raw)
    with tarfile.open(fileobj=_Careful(stream), mode="r:") as pack:
        for member in pack:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _refused(archive, member.name, "is a link, a device or a sparse file")
            yield member.name, member.size, pack.extractfile(member)
        stream.seek(pack.offset)  # tarfile takes any broken header for the end: look at the rest
        rest = stream.read(HEADER)
        if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0") or stream.read(1):
            raise tarfile.ReadError("it does not end as an archive does")


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(
        f"{archive} is refused: its member {name!r} {why}. Nothing was unpacked; "
        f"an archive of pictures holds plain files only, so ask where it came from."
    )


def _write_member(
    folder: Path, name: str, size: int, file: BufferedIOBase | None, archive: Path
) -> None:
    """One member below the folder, when its name and size are what they should be."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or name[1:2] == ":":
        raise _refused(archive, name, "points outside the archive's folder")
    target = folder / pure
    if file is None:
        target.mkdir(parents=True, exist_ok=True)
        return
    if os.path.lexists(target):
        raise _refused(archive, name, "is there twice")
    require_space(folder, size, f"{name} of {archive}")
    target.parent.mkdir(parents=True, exist_ok=True)
    length = 0
    with file, target.open("xb") as out:
        while chunk := file.read(CHUNK):
            length += out.write(chunk)
    if length != size:
        raise EOFError(f"{name} has {length} bytes, {size} were announced")
