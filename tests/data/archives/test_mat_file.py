"""MATLAB 5 files: read as scipy reads its own and those of MATLAB, and broken in every way."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from diffdict.data.archives import mat_file
from diffdict.data.archives.mat_file import CellArray, StructArray, read_mat
from diffdict.errors import UserError

RNG = np.random.default_rng(0)
MATLAB = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"  # where scipy's tests lie
MASK = np.triu(np.ones((5, 7), bool))
VALUES = {
    "one": 3.0,
    "row": np.arange(7.0),
    "column": np.arange(4.0)[:, None],
    "block": RNG.integers(0, 255, (2, 3, 4), np.uint8),
    "nothing": np.zeros((0, 0)),
    "rowless": np.zeros((0, 3), np.int16),
    "mask": MASK,
    "complex": RNG.random((2, 2)) + 1j * RNG.random((2, 2)),
    "word": "horse",
    "empty": "",
    "accent": "œil é",
    "words": np.array(["ab", "cd"]),
    "cells": np.array([[1.0, "two"], [np.arange(3), MASK]], object),
    "struct": {"a": 1.0, "inner": {"b": "x", "c": {"d": np.eye(2)}}},
    "structs": np.array([(1.0, "x"), (2.0, "yz")], [("a", object), ("b", object)]),
    **{
        f"{kind}{bits}": np.array([[1, 100]], f"{kind}{bits}")
        for kind, bits in (*(("int", b) for b in (8, 16, 32, 64)), ("uint", 64), ("float", 32))
    },
}


def equal(ours, theirs) -> bool:
    """Whether a value is what scipy read."""
    if isinstance(ours, str):
        return theirs.dtype.kind == "U" and "".join(theirs.tolist()) == ours
    if isinstance(ours, StructArray):
        same = ours.shape == theirs.shape and ours.fields == (theirs.dtype.names or ())
        each = theirs.flatten(order="F")
        return same and all(
            equal(one[field], other[field])
            for one, other in zip(ours.elements, each, strict=bool(ours.fields))
            for field in ours.fields
        )
    if isinstance(ours, CellArray):
        each = theirs.flatten(order="F")
        return ours.shape == theirs.shape and all(map(equal, ours.elements, each))
    kept = ours.dtype.kind == "b" or np.can_cast(theirs.dtype, ours.dtype)
    return kept and np.array_equal(ours, theirs)  # scipy keeps the smaller type of the file


def scipys(path: Path) -> dict:
    loaded = scipy.io.loadmat(path, chars_as_strings=True)
    return {name: value for name, value in loaded.items() if not name.startswith("__")}


@pytest.mark.parametrize("compressed", [False, True])
def test_scipys_files_are_read_as_scipy_reads_them(tmp_path, compressed):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, VALUES, do_compression=compressed)
    ours, theirs = read_mat(path), scipys(path)
    assert list(ours) == list(theirs) == list(VALUES)
    words = ours.pop("words")
    assert ["".join(row) for row in words] == theirs.pop("words").tolist() == ["ab", "cd"]
    assert [name for name in ours if not equal(ours[name], theirs[name])] == []
    for name, value in VALUES.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            assert ours[name].dtype == value.dtype, name
    assert (ours["mask"].dtype, ours["word"], ours["one"].shape) == (bool, "horse", (1, 1))
    assert ours["struct"].elements[0]["inner"].elements[0]["b"] == "x"


UNREAD = {  # what scipy keeps of MATLAB's files, and this reader does not
    "4.2c": "",  # MATLAB 4, sparse or not
    "sparse": "a sparse matrix",
    "object": "an object",
    "func": "a function",
    "parabola": "a function",
    "sqr": "a function",
    "hdf5": "MATLAB 7.3",
    "vec_4": "",
    "m4": "",
    "mat4": "",
    "bad_miuint32": "is of size",
    "bad_miutf8": "ascii",  # whose name scipy refuses too
    "broken": "utf-8",
    "corrupted": "compress",
    "malformed": "bytes",
    "nasty": "one name",
}


@pytest.mark.skipif(not MATLAB.is_dir(), reason="scipy came without its tests")
def test_files_of_matlab_5_to_7_are_read_as_scipy_reads_them():
    """Of both byte orders, from Solaris, Windows and Linux."""
    read = []
    for path in sorted(MATLAB.glob("*.mat")):
        said = [words for part, words in UNREAD.items() if part in path.name]
        if said:
            with pytest.raises(UserError, match=rf"{path.name} is no MATLAB 5 file.*{said[0]}"):
                read_mat(path)
            continue
        ours, theirs = read_mat(path), scipys(path)
        assert list(ours) == list(theirs), path
        for name, value in ours.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "U":
                assert [*map("".join, value.tolist())] == [
                    row.ljust(value.shape[1]) for row in theirs[name].tolist()
                ]
            else:
                assert equal(value, theirs[name]), path
        read.append(path.name)
    assert len(read) > 50
    assert sum("SOL2" in name for name in read) > 8, "big-endian ones"


def written(value: object, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"x": value}, do_compression=compressed)
    return file.getvalue()


NESTED = {
    "name": "horse",
    "parts": VALUES["structs"],
    "mask": MASK[:2, :3],
    "cells": np.array([1.0, "two"], object),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_anywhere_is_one_line(tmp_path, compressed):
    whole, path = written(NESTED, compressed), tmp_path / "x.mat"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{path} is no MATLAB 5 file.*\. \w.*"):
            read_mat(path)
    path.write_bytes(whole)
    assert read_mat(path)["x"].fields == tuple(NESTED)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_changed_byte_is_read_or_is_one_line(tmp_path, compressed):
    whole, path = written(NESTED, compressed), tmp_path / "x.mat"
    broken = 0
    for place in range(124, len(whole)):
        for change in (0x01, 0x80 if place % 2 else 0xFF):
            changed = bytearray(whole)
            changed[place] ^= change
            path.write_bytes(changed)
            said = refusal(path)
            assert not said or said.startswith(f"{path} is no MATLAB 5 file")
            broken += bool(said)
    assert broken > len(whole) // 2


def refusal(path: Path) -> str:
    """What is said of a file, or nothing."""
    try:
        read_mat(path)
    except UserError as error:
        return str(error)
    return ""


def test_noise_behind_a_header_is_one_line(tmp_path):
    head, path = written(1.0)[:128], tmp_path / "x.mat"
    for seed in range(100):
        path.write_bytes(head + np.random.default_rng(seed).bytes(8 * (seed % 40 + 1)))
        with pytest.raises(UserError, match="is no MATLAB 5 file"):
            read_mat(path)


def matrix(kind: int, shape: tuple[int, ...], *elements: bytes) -> bytes:
    """A variable, as the format writes it."""
    sides = struct.pack(f"<{len(shape)}i", *shape)
    inside = element(6, struct.pack("<II", kind, 0)) + element(5, sides) + element(1, b"x")
    return element(14, inside + b"".join(elements))


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def test_what_would_fill_the_memory_is_one_line(tmp_path, monkeypatch):
    head, path = written(1.0)[:128], tmp_path / "x.mat"
    deep = b""
    for _ in range(40):
        deep = matrix(1, (1, 1), deep or matrix(6, (1, 1), element(9, bytes(8))))
    packed = zlib.compress(bytes(1 << 24), 9)
    bomb = struct.pack("<II", 15, len(packed)) + packed
    names = element(5, struct.pack("<i", 8)), element(1, b"a".ljust(8, b"\0"))
    cases = {
        "16 deep": deep,
        "unpacks to more than": bomb,
        r"8000000 cells or fields in 0 bytes": matrix(1, (2000, 4000)),
        r"1000000 cells or fields": matrix(2, (1000, 1000), *names),
        r"of size \(65536, 65536\)": matrix(6, (65536, 65536), element(2, b"")),
        r"of size \(0, 2147483647": matrix(6, (0, 2**31 - 1, 2**31 - 1), element(2, b"")),
        r"of size \(-1, 1\)": matrix(6, (-1, 1), element(2, b"")),
        r"of size \(1,\)": matrix(6, (1,), element(2, b"\1")),
        "more than 100 values": matrix(1, (200, 1), *[element(14, b"")] * 200),
        "stored as int16 are no uint8": matrix(9, (1, 1), element(3, b"\0\1")),
        "stored as float64 are no uint8": matrix(9, (1, 1), element(9, bytes(8))),
        "kind 99": matrix(99, (1, 1)),
        "holds no variable": b"",
        "follow a variable": matrix(9, (1, 1), element(2, b"\1"), element(2, b"\1")),
    }
    monkeypatch.setattr(mat_file, "MAX_BYTES", 1 << 23)
    monkeypatch.setattr(mat_file, "MAX_VALUES", 100)
    for said, content in cases.items():
        path.write_bytes(head + content)
        tracemalloc.start()
        with pytest.raises(UserError, match=f"{path} is no MATLAB 5 file.*{said}"):
            read_mat(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
        tracemalloc.stop()
    monkeypatch.setattr(mat_file, "MAX_BYTES", 100)
    with pytest.raises(UserError, match=r"it has \d+ bytes, at most 100 are read"):
        read_mat(path)


def test_other_formats_are_named(tmp_path):
    path = tmp_path / "x.mat"
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    for content in (head, head.ljust(512, b"\0") + mat_file.HDF5, mat_file.HDF5 + bytes(200)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"MATLAB 7\.3 \(HDF5\)\. .*'-v7'"):
            read_mat(path)
    path.write_bytes(b"no header" * 20)
    with pytest.raises(UserError, match="its header is not MATLAB 5's"):
        read_mat(path)
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be read"):
        read_mat(tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.mat cannot be read"):
        read_mat(tmp_path / "nowhere.mat")
