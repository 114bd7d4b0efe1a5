"""Archives are unpacked whole or refused whole."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from diffdict import files
from diffdict.errors import UserError
from diffdict.files import archive, atomic


def tar_of(path: Path, *members: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as pack:
        for member in members:
            pack.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(
    name: str, size: int = 3, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = (size if kind == tarfile.REGTYPE else 0), kind, link
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives_are_unpacked(tmp_path, mode):
    pack = tar_of(
        tmp_path / "set.tar",
        member("./", kind=tarfile.DIRTYPE),
        member("./a/b.txt", 5000),
        mode=mode,
    )
    folder = files.unpack(pack, tmp_path / "out" / "set")
    assert (folder / "a" / "b.txt").read_bytes() == b"x" * 5000
    with pytest.raises(UserError, match="exists already"):
        files.unpack(pack, folder)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["set"]


def test_zip_archives_are_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("a/", "")
        pack.writestr("a/b.txt", "x" * 5000)
    folder = files.unpack(tmp_path / "set.zip", tmp_path / "set")
    assert (folder / "a" / "b.txt").read_text() == "x" * 5000


HOSTILE = {
    "parent": [member("../evil.txt")],
    "hidden parent": [member("a/../../evil.txt")],
    "absolute": [member("/tmp/evil.txt")],
    "drive": [member("C:evil.txt")],
    "backslash": [member("..\\evil.txt")],
    "symlink": [member("a", kind=tarfile.SYMTYPE, link="/etc"), member("a/passwd")],
    "hard link": [member("a", kind=tarfile.LNKTYPE, link="/etc/passwd")],
    "device": [member("a", kind=tarfile.CHRTYPE)],
    "fifo": [member("a", kind=tarfile.FIFOTYPE)],
    "twice": [member("good.txt"), member("./good.txt")],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tars_are_refused_whole(tmp_path, kind):
    pack = tar_of(tmp_path / "evil.tar.gz", member("fine.txt"), *HOSTILE[kind])
    with pytest.raises(
        UserError, match=r"evil\.tar\.gz is refused: its member .*Nothing was unpacked"
    ):
        files.unpack(pack, tmp_path / "room" / "out")
    assert not list((tmp_path / "room").iterdir())
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "link"])
def test_hostile_zips_are_refused_whole(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as pack:
        info = zipfile.ZipInfo(name)
        info.external_attr = (0o120777 if name == "link" else 0o100644) << 16
        pack.writestr("fine.txt", "x")
        pack.writestr(info, "/etc")
    with pytest.raises(UserError, match="is refused"):
        files.unpack(tmp_path / "evil.zip", tmp_path / "room" / "out")
    assert not list((tmp_path / "room").iterdir())


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_bomb_is_refused_by_its_announced_size(tmp_path, monkeypatch, form):
    bomb = tmp_path / f"bomb.{form}"
    if form == "zip":
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as pack:
            pack.writestr("zeros", bytes(3_000_000))
    else:
        tar_of(bomb, member("zeros", 3_000_000))
    monkeypatch.setattr(atomic, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(UserError, match=r"No room for .*3\.0 MB, 1\.0 MB are free"):
        files.unpack(bomb, tmp_path / "room" / "out")
    assert not list((tmp_path / "room").iterdir())


def test_a_header_of_gigabytes_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "HEADER", 10_000)
    long = member("x", 20_000)
    long.type = tarfile.GNUTYPE_LONGNAME
    with pytest.raises(UserError, match="damaged: a header of"):
        files.unpack(tar_of(tmp_path / "bomb.tar.gz", long), tmp_path / "out")


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_cut_archive_leaves_nothing(tmp_path, form, part):
    whole = tmp_path / f"set.{form}"
    if form == "zip":
        with zipfile.ZipFile(whole, "w") as pack:
            for i in range(8):
                pack.writestr(f"{i}.bin", os.urandom(4000))
    else:
        with tarfile.open(whole, "w:gz" if form == "tar.gz" else "w") as pack:
            for i in range(8):
                pack.addfile(member(f"{i}.bin", 4000), io.BytesIO(os.urandom(4000)))
    data = whole.read_bytes()
    end = 8 * (512 + 4096) + 300 if form == "tar" else len(data)  # before tar's padding
    whole.write_bytes(data[: int(part * end)])
    with pytest.raises(UserError, match=r"set\..* is damaged.*fetch it again"):
        files.unpack(whole, tmp_path / "room" / "out")
    assert not list((tmp_path / "room").iterdir())


def test_a_broken_header_within_a_tar_is_not_taken_for_its_end(tmp_path):
    pack = tar_of(tmp_path / "set.tar", member("a"), member("b"), mode="w")
    data = bytearray(pack.read_bytes())
    data[1024 + 100] ^= 0xFF
    pack.write_bytes(data)
    with pytest.raises(UserError, match="does not end as an archive does"):
        files.unpack(pack, tmp_path / "out")


def test_neither_archive_nor_missing_file_is_a_traceback(tmp_path):
    (tmp_path / "page.tar.gz").write_bytes(gzip.compress(b"<html>" * 500))
    with pytest.raises(UserError, match="is damaged"):
        files.unpack(tmp_path / "page.tar.gz", tmp_path / "out")
    with pytest.raises(UserError, match="No archive at"):
        files.unpack(tmp_path / "none.zip", tmp_path / "out")
    lying = tmp_path / "lying.zip"
    with zipfile.ZipFile(lying, "w") as pack:
        pack.writestr("a", "x" * 100)
    data = bytearray(lying.read_bytes())
    at = data.index(b"PK\x01\x02") + 24  # the central directory's uncompressed size
    data[at : at + 4] = struct.pack("<I", 50)
    lying.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        files.unpack(lying, tmp_path / "out")
    assert not (tmp_path / "out").exists()
