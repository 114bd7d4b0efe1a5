"""Folders are whole or absent, and replaced in one step where the system can."""

import ctypes
import subprocess
import sys

import pytest

from diffdict.errors import UserError
from diffdict.files import folder, fresh, unused, write_folder
from tests.processes import PATIENCE


class Old:
    """A system that cannot exchange names."""


def held(path):
    return {each.name: each.read_bytes() for each in path.iterdir()}


@pytest.mark.parametrize("system", ["this", "old"])
def test_a_folder_is_replaced_whole(tmp_path, monkeypatch, system):
    if system == "old":
        monkeypatch.setattr(ctypes, "CDLL", lambda _: Old())
    path = tmp_path / "new" / "out"
    assert write_folder(path, {"a": b"1", "b": b"2"}) == path
    assert held(path) == {"a": b"1", "b": b"2"}
    write_folder(path, {"a": b"3", "c": b"4"})
    assert held(path) == {"a": b"3", "c": b"4"}
    assert [each.name for each in path.parent.iterdir()] == ["out"]


def test_what_fails_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    path = write_folder(tmp_path / "out", {"a": b"1"})
    written = []

    def full(file):
        written.append(file)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "fsync", full)
    with pytest.raises(UserError, match="Disk full"):
        write_folder(path, {"a": b"2", "b": b"3"})
    assert held(path) == {"a": b"1"}
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="Cannot write"):
        write_folder(tmp_path / "out", {"a": b"1"})
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_is_made_by_one_process(tmp_path):
    """However many begin at the same moment."""
    make = f"from diffdict.files import fresh; print(fresh({str(tmp_path / 'a/run')!r}).name)"
    every = [subprocess.Popen([sys.executable, "-c", make], stdout=-1, text=True) for _ in range(6)]
    names = [process.communicate(timeout=PATIENCE)[0].strip() for process in every]
    assert sorted(names) == ["run", *(f"run-{number}" for number in range(2, 7))]
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(names)
    (tmp_path / "file").touch()
    assert fresh(tmp_path / "file").name == "file-2"
    with pytest.raises(OSError):  # noqa: PT011
        fresh(tmp_path / "file/run")


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    assert unused(tmp_path / "grid") == tmp_path / "grid"
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid-2").symlink_to("nowhere")
    assert unused(tmp_path / "grid") == tmp_path / "grid-3"
    (tmp_path / "grid.png").touch()
    assert unused(tmp_path / "grid.png") == tmp_path / "grid-2.png"
