"""Files are whole or absent, and a disk's troubles are said in one line."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffdict import files
from diffdict.errors import UserError
from diffdict.files import atomic


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
