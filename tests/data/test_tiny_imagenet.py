"""Tiny-ImageNet in its published layout: its classes, its two tables, and what lacks."""

import numpy as np
import pytest
from PIL import Image

from diffdict.data.tiny_imagenet import TinyImageNet
from diffdict.errors import UserError

IDS = ["n03", "n01", "n02"]  # as the file has them: in no order


@pytest.fixture
def folder(tmp_path):
    """Three classes of two training pictures, three of val; a picture's grey says its class."""
    (tmp_path / "wnids.txt").write_text("".join(f"{one}\n" for one in IDS))
    (tmp_path / "words.txt").write_text("n01\tcat, house cat\nn02\tdog\nn99\tother\n")
    (tmp_path / "val" / "images").mkdir(parents=True)
    lines = []
    for label, one in enumerate(sorted(IDS)):
        (tmp_path / "train" / one / "images").mkdir(parents=True)
        pixels = np.full((64, 64), label * 100, np.uint8)
        for number in range(2):
            name = f"{one}_{number}.JPEG"
            Image.fromarray(pixels).save(tmp_path / "train" / one / "images" / name)  # grey
        (tmp_path / "train" / one / f"{one}_boxes.txt").write_text("no picture")
        Image.fromarray(pixels).convert("RGB").save(
            tmp_path / "val" / "images" / f"val_{2 - label}.JPEG"
        )
        lines.append(f"val_{2 - label}.JPEG\t{one}\t0\t0\t9\t9\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def opened(folder, split="train", **options):
    return TinyImageNet("tiny", str(folder), split, **options)


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("test", 3), ("val", 0)])
def test_classes_are_the_sorted_ids(folder, split, count):
    pictures = opened(folder, split)
    assert len(pictures) == count
    assert list(pictures.picture_classes) == ["cat", "dog", "n03"]
    for index in range(count):
        sample = pictures[index]
        grey = (float(sample["image"].mean()) + 1) * 127.5
        assert grey == pytest.approx(100 * sample["label"], abs=2)
        assert sample["image"].shape == (3, 64, 64)


def test_the_first_pictures_are_of_all_classes(folder):
    few = opened(folder, train_pictures=3)
    assert [few[index]["label"] for index in range(3)] == [0, 1, 2]
    assert few.picture_name(1) == "train/n02/images/n02_0.JPEG"
    assert few.fingerprint != opened(folder).fingerprint


def test_what_lacks_is_named(folder):
    (folder / "val" / "images" / "val_9.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"names no class for val_9\.JPEG .* got nothing"):
        opened(folder, "test")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG n01 0 0 9 9\n")  # no tabs
    with pytest.raises(UserError, match=r"names no class for val_0\.JPEG .* got nothing"):
        opened(folder, "test")
    (folder / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UserError, match=r"no file .*val_annotations\.txt"):
        opened(folder, "test")
    with (folder / "wnids.txt").open("a") as file:
        file.write("n07\n")
    with pytest.raises(UserError, match=r"has no folder n07, which wnids\.txt names"):
        opened(folder)
    (folder / "wnids.txt").unlink()
    with pytest.raises(UserError, match=r"no file .*wnids\.txt: dataset\.path=… names"):
        opened(folder)
