"""Files are whole or absent, downloads resume and are verified, hostile archives are refused."""

import errno
import gzip
import hashlib
import io
import os
import struct
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffdict import files
from diffdict.errors import UserError
from diffdict.files import archive, atomic, fetch

BODY = bytes(range(256)) * 9000  # 2.3 MB: more than two chunks


class Remote(ThreadingHTTPServer):
    """A file server whose faults the test chooses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.body, self.etag, self.ranges, self.kind = (
            BODY,
            '"one"',
            True,
            "application/octet-stream",
        )
        self.cut: list[int] = []  # bytes after which the next connections end
        self.announce: int | None = None  # a Content-Length that is not true
        self.ignore_if_range = False
        self.slow = 0.0
        self.status = 200
        self.asked: list[tuple[str | None, int]] = []  # Range header, bytes sent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.bin"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        at: Remote = self.server
        if at.status != 200:
            return self.send_error(at.status)
        wanted, start = self.headers.get("Range"), 0
        same = at.ignore_if_range or self.headers.get("If-Range") in (None, at.etag)
        if wanted and at.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(at.body) > 0 and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", at.kind)
        body = at.body[start:]
        self.send_header("Content-Length", str(at.announce or len(body)))
        if at.etag:
            self.send_header("ETag", at.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(at.body) - 1}/{len(at.body)}")
        self.end_headers()
        body = body[: at.cut.pop(0)] if at.cut else body
        at.asked.append((wanted, len(body)))
        if at.slow:
            self.wfile.write(body[:1000])
            time.sleep(at.slow)
            body = body[1000:]
        self.wfile.write(body)
        return None

    def log_message(self, *_) -> None:
        """Nothing on the screen."""


@pytest.fixture
def remote(monkeypatch) -> Iterator[Remote]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    with Remote() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def alone(path: Path) -> bool:
    """The file is there and nothing else was left in its folder."""
    return [each.name for each in path.parent.iterdir()] == [path.name]


@given(st.integers(0, 10**15))
def test_bytes_are_said_in_six_digits_at_most(n):
    number, unit = files.human_bytes(n).split()
    scale = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert abs(float(number) * scale - n) <= 0.05 * scale * (1 + 1e-9)
    assert len(number) <= 6


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.bin"
    files.write_atomic(path, b"one")
    assert files.write_atomic(path, lambda file: file.write(b"two")) == path
    assert path.read_bytes() == b"two"
    assert alone(path)
    assert files.sha256(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, ValueError, SystemExit])
def test_write_atomic_keeps_the_old_file_when_its_writer_fails(tmp_path, trouble):
    path = files.write_atomic(tmp_path / "file.bin", b"old")

    def writer(file):
        file.write(b"half")
        raise trouble

    with pytest.raises(trouble):
        files.write_atomic(path, writer)
    assert path.read_bytes() == b"old"
    assert alone(path)


@pytest.mark.parametrize(
    ("code", "word"), [(errno.ENOSPC, "Disk full"), (errno.EDQUOT, "Disk full")]
)
def test_a_full_disk_is_said_with_path_need_and_free(tmp_path, monkeypatch, code, word):
    path = files.write_atomic(tmp_path / "file.bin", b"old")

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match=rf"{word}.*file\.bin.*free\. Make room"):
        files.write_atomic(path, b"new" * 1000)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"needs 3\.0 KB and found only") as told:
        files.write_atomic(path, b"new" * 1000)
    monkeypatch.undo()
    assert "\n" not in str(told.value)
    assert path.read_bytes() == b"old"
    assert alone(path)


def test_a_read_only_place_is_said(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=r"Cannot write .*Read-only.*Choose a folder"):
        files.writable_folder(tmp_path / "inside")


def test_a_file_in_the_folder_s_place_is_said(tmp_path):
    (tmp_path / "taken").write_text("")
    for act in (
        lambda: files.writable_folder(tmp_path / "taken"),
        lambda: files.write_atomic(tmp_path / "taken" / "file", b""),
        lambda: files.write_atomic(tmp_path, b""),
    ):
        with pytest.raises(UserError, match="Cannot write"):
            act()
    assert alone(tmp_path / "taken")


def test_space_is_asked_for_before_it_is_used(tmp_path):
    files.require_space(tmp_path / "not" / "yet", 1, "a byte")
    with pytest.raises(UserError, match=r"No room for the moon at .*needs 1000000\.0 TB"):
        files.require_space(tmp_path, 10**18, "the moon")


def test_publish_removes_what_it_cannot_publish(tmp_path):
    temp = files.temporary(tmp_path / "name")
    temp.write_bytes(b"x")
    (tmp_path / "name" / "full").mkdir(parents=True)
    with pytest.raises(UserError, match="Cannot write"):
        files.publish(temp, tmp_path / "name")
    assert not temp.exists()


def test_download_says_size_and_note_and_verifies(remote, tmp_path, capsys):
    path = tmp_path / "in" / "weights.bin"
    digest = hashlib.sha256(BODY).hexdigest()
    assert files.download(remote.url, path, sha256=digest, note="Licence: MIT.") == path
    assert path.read_bytes() == BODY
    assert alone(path)
    said = capsys.readouterr().err
    assert "(2.3 MB)" in said
    assert "Licence: MIT." in said
    files.download(remote.url, path, sha256=digest)
    assert len(remote.asked) == 1
    with pytest.raises(UserError, match="Move that file away"):
        files.download(remote.url, path, sha256="0" * 64)
    assert path.read_bytes() == BODY


def test_a_cut_connection_is_resumed_where_it_ended(remote, tmp_path):
    remote.cut = [1_000_000, 700_000]
    path = files.download(remote.url, tmp_path / "weights.bin")
    assert path.read_bytes() == BODY
    assert [wanted for wanted, _ in remote.asked] == [None, "bytes=1000000-", "bytes=1700000-"]
    assert alone(path)


def test_a_later_call_resumes_what_an_interrupted_one_left(remote, tmp_path, monkeypatch):
    remote.cut = [1_500_000]

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not (tmp_path / "weights.bin").exists()
    assert (tmp_path / "weights.bin.part").stat().st_size == 1_500_000
    path = files.download(remote.url, tmp_path / "weights.bin")
    assert path.read_bytes() == BODY
    assert remote.asked[-1] == ("bytes=1500000-", len(BODY) - 1_500_000)
    assert alone(path)


@pytest.mark.parametrize("how", ["changed", "changed, If-Range ignored", "no ranges", "no etag"])
def test_a_part_that_cannot_be_continued_is_fetched_anew(remote, tmp_path, monkeypatch, how):
    remote.cut = [1_500_000]
    remote.etag = None if how == "no etag" else remote.etag
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=r"broke off after 1\.5 MB.*resumes it"):
        files.download(remote.url, tmp_path / "weights.bin")
    if how.startswith("changed"):
        remote.body, remote.etag = BODY[::-1], '"two"'
    remote.ignore_if_range = "ignored" in how
    remote.ranges = how != "no ranges"
    path = files.download(remote.url, tmp_path / "weights.bin")
    assert path.read_bytes() == remote.body
    assert alone(path)


def test_a_wrong_hash_keeps_nothing(remote, tmp_path):
    with pytest.raises(UserError, match=r"sha256 of what http.* should be 0000.*Nothing was kept"):
        files.download(remote.url, tmp_path / "weights.bin", sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_wrong_length_never_gets_the_final_name(remote, tmp_path):
    remote.announce = len(BODY) + 5
    with pytest.raises(UserError, match="broke off"):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not (tmp_path / "weights.bin").exists()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, ""), (503, ""), (200, "text/html; charset=utf-8")]
)
def test_an_answer_that_is_no_file_is_said(remote, tmp_path, status, kind):
    remote.status, remote.kind = status, kind
    word = str(status) if status != 200 else "web page"
    with pytest.raises(UserError, match=rf"{word}.*put it at .*weights\.bin"):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not list(tmp_path.iterdir())


def test_offline_names_the_address_and_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    url = "http://127.0.0.1:9/weights.bin"
    with pytest.raises(UserError, match=rf"{url} could not start .*put it at .*weights\.bin"):
        files.download(url, tmp_path / "weights.bin")
    with pytest.raises(UserError, match="only http"):
        files.download("file:///etc/hostname", tmp_path / "weights.bin")


def test_no_room_is_said_before_a_byte_is_fetched(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match=r"No room for weights\.bin.*2\.3 MB, 1\.0 KB are free"):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not (tmp_path / "weights.bin").exists()


def test_two_at_once_fetch_it_once(remote, tmp_path):
    remote.slow = 0.2
    path = tmp_path / "weights.bin"
    both = [threading.Thread(target=files.download, args=(remote.url, path)) for _ in range(3)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert path.read_bytes() == BODY
    assert len(remote.asked) == 1
    assert alone(path)


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
