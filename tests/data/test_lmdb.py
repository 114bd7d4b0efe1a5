"""LMDB sets: Diff-AE's keys, workers, and what is refused."""

import io
import multiprocessing
import sys

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.data.images import ImageDataModule
from diffdict.data.lmdb import LmdbDataset
from diffdict.errors import UserError


def write(path, keys: dict[str, bytes], subdir: bool = True) -> None:
    environment = lmdb.open(str(path), map_size=1 << 20, subdir=subdir)
    with environment, environment.begin(write=True) as transaction:
        for key, value in keys.items():
            transaction.put(key.encode(), value)


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


PICTURES = {f"8-{number:05d}": picture(number) for number in range(7)} | {"length": b"7"}


def made(path, split="train", **options) -> LmdbDataset:
    options = {"name": "set", "image_size": 8} | options
    return LmdbDataset(path=None if path is None else str(path), split=split, **options)


@pytest.fixture
def stored(tmp_path):
    write(tmp_path / "set", PICTURES)
    return tmp_path / "set"


def number(image: torch.Tensor) -> int:
    return round(float((image[0, 0, 0] + 1) / 2 * 255))


def test_pictures_come_by_their_keys(stored, tmp_path):
    data = made(stored)
    assert (len(data), data.labelled, data.num_classes) == (7, False, 0)
    assert [number(data[i]["image"]) for i in range(7)] == list(range(7))
    held = made(stored, "test", train_pictures=4)
    assert [number(held[i]["image"]) for i in range(3)] == [4, 5, 6]
    assert held.picture_name(0).endswith("set[8-00004]")
    assert held.fingerprint != data.fingerprint
    half = made(stored, image_size=4, stored_size=8)
    assert half[0]["image"].shape == (3, 4, 4)
    write(tmp_path / "one.lmdb", PICTURES, subdir=False)
    assert number(made(tmp_path / "one.lmdb")[2]["image"]) == 2


def test_splits_in_folders_of_their_own(tmp_path):
    write(tmp_path / "test", PICTURES | {"length": b"2"})
    assert len(made(tmp_path, "test")) == 2


def in_child(data: LmdbDataset, answer) -> None:
    answer.put([number(data[i]["image"]) for i in range(3)])


def test_a_fork_opens_its_own(stored):
    data = made(stored)
    data[0]  # opened here first
    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    child = fork.Process(target=in_child, args=(data, answer))
    child.start()
    assert answer.get() == [0, 1, 2]
    child.join()
    assert number(data[6]["image"]) == 6
    loader = ImageDataModule(lambda split: data, batch_size=2, num_workers=2).test_dataloader()
    seen = [number(image) for batch in loader for image in batch["image"]]
    assert seen == list(range(7))


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ({"abc": b"1"}, {}, "has no key 'length' with a number .*b'abc'.*{size}-{index:05d}"),
        (PICTURES | {"length": b"many"}, {}, "has no key 'length' with a number"),
        (PICTURES, {"image_size": 16}, "no key 16-00000 .*b'8-00000'.*dataset.stored_size"),
        (PICTURES | {"length": b"9"}, {"index": 8}, "no key 8-00008"),
        (PICTURES | {"8-00002": b"text"}, {"index": 2}, r"set\[8-00002\] is no whole picture"),
        (PICTURES, {"split": "test"}, "has 0 pictures for test"),
    ],
)
def test_bad_contents_are_refused_in_one_line(tmp_path, keys, options, message):
    write(tmp_path / "set", keys)
    options = dict(options)
    index = options.pop("index", 0)
    with pytest.raises(UserError, match=message) as refusal:
        made(tmp_path / "set", **options)[index]
    assert "\n" not in str(refusal.value)


def test_bad_files_are_refused_in_one_line(tmp_path, monkeypatch, stored):
    (tmp_path / "text").write_text("hello " * 3000)
    for path, message in [
        (None, "needs an LMDB folder or file"),
        (tmp_path / "away", "No LMDB at .*away"),
        (tmp_path, r"No LMDB at .*data\.mdb is missing"),
        (tmp_path / "text", "cannot be opened as LMDB"),
    ]:
        with pytest.raises(UserError, match=message) as refusal:
            made(path)
        assert "\n" not in str(refusal.value)
    write(tmp_path / "other", PICTURES)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"pip install 'diffdict\[lmdb\]'"):
        made(tmp_path / "other")


def test_two_datasets_of_one_file(stored):
    train, test = made(stored, train_pictures=5), made(stored, "test", train_pictures=5)
    assert np.array([len(train), len(test)]).tolist() == [5, 2]
    assert (number(train[0]["image"]), number(test[0]["image"])) == (0, 5)
