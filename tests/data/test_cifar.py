"""CIFAR's binary archives in their published layout: read, and refused where they are not."""

import pickle

import numpy as np
import pytest
import torch

from diffdict.data.cifar import CifarDataset
from diffdict.errors import UserError

TRAIN10 = [f"data_batch_{number}.bin" for number in range(1, 6)]


def write(folder, classes=10, each=4):
    """A set with few pictures a file; gives all records in the order of the files."""
    folder.mkdir(parents=True)
    generator, ten = np.random.default_rng(0), classes == 10
    files = [*TRAIN10, "test_batch.bin"] if ten else ["train.bin", "test.bin"]
    names = "batches.meta.txt" if ten else "fine_label_names.txt"
    lines = "".join(f"class{number}\n" for number in range(classes))
    (folder / names).write_text(lines + ("\n" if ten else ""))  # as published, with an empty line
    for file in files:
        pixels = generator.integers(0, 256, (each, 3072), dtype=np.uint8)
        labels = generator.integers(0, classes, (each, 1), dtype=np.uint8)
        coarse = np.full((each, 0 if ten else 1), 19, np.uint8)
        (folder / file).write_bytes(np.hstack([coarse, labels, pixels]).tobytes())
    return folder


def opened(folder, split="train", classes=10, **options):
    return CifarDataset(f"cifar{classes}", str(folder), split, classes, **options)


@pytest.mark.parametrize(("classes", "files"), [(10, TRAIN10), (100, ["train.bin"])])
def test_a_record_is_its_class_and_three_planes(tmp_path, classes, files):
    folder = write(tmp_path / "set", classes)
    pictures, before = opened(folder, classes=classes), 1 if classes == 10 else 2
    assert len(pictures) == 4 * len(files)
    assert pictures.label_kinds == ["label"]
    assert len(pictures.picture_classes) == pictures.num_classes == classes
    for index in range(len(pictures)):
        file, row = folder / files[index // 4], index % 4
        raw = np.frombuffer(file.read_bytes(), np.uint8).reshape(4, -1)[row]
        sample = pictures[index]
        assert sample["label"] == raw[before - 1]
        red, green, blue = raw[before:].reshape(3, 32, 32)
        planes = ((sample["image"] + 1) * 127.5).round().to(torch.uint8).numpy()
        assert (planes == np.stack([red, green, blue])).all()
        assert pictures.picture_name(index) == f"{file}[{row}]"
    assert len(opened(folder, "test", classes)) == 4
    assert len(opened(folder, "val", classes)) == 0


def test_the_first_so_many_and_other_sizes(tmp_path):
    folder = write(tmp_path / "set")
    few = opened(folder, train_pictures=6, image_size=16)
    assert (len(few), few[5]["image"].shape) == (6, (3, 16, 16))
    assert few.fingerprint != opened(folder).fingerprint == opened(folder).fingerprint
    with pytest.raises(IndexError):
        few[6]


def test_what_is_no_binary_cifar_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle, "load", pytest.fail)
    cut, missing, wrong = (write(tmp_path / name) for name in ("cut", "missing", "wrong"))
    with (cut / "data_batch_3.bin").open("ab") as file:
        file.write(b"\0")
    (missing / "data_batch_2.bin").unlink()
    raw = bytearray((wrong / "data_batch_1.bin").read_bytes())
    raw[3073] = 77
    (wrong / "data_batch_1.bin").write_bytes(raw)
    python = tmp_path / "python"
    python.mkdir()
    (python / "data_batch_1").write_bytes(pickle.dumps({}))
    (short := write(tmp_path / "short")).joinpath("batches.meta.txt").write_text("cat\ndog\n")
    hundred = write(tmp_path / "hundred", 100)
    for folder, said in (
        (cut, r"data_batch_3\.bin has 12293 bytes, no whole number of records of 3073"),
        (missing, r"no file .*data_batch_2\.bin.* unpack the archive again"),
        (wrong, r"Record 1 of .*data_batch_1\.bin has class 77, and there are 0 to 9"),
        (python, r"data_batch_1 is of the archive for Python, a pickle, which is never opened"),
        (short, "names 2 classes, cifar10 has 10"),
        (hundred, "it is CIFAR-100: dataset=cifar100"),
    ):
        with pytest.raises(UserError, match=said):
            opened(folder)
    with pytest.raises(UserError, match="it is CIFAR-10: dataset=cifar10"):
        opened(write(tmp_path / "ten"), classes=100)
    with pytest.raises(UserError, match=r"10 or 100 classes, got 20"):
        opened(cut, classes=20)
