"""Folders as classes: what is read in which order, and what is refused."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from diffdict.data.class_folder import ClassFolder
from diffdict.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Three classes of unlike sizes; their pictures' grey says which is which."""
    for split, counts in (
        ("train", {"ant": 5, "bee": 2, "cat": 1}),
        ("test", {"ant": 1, "bee": 1, "cat": 1}),
    ):
        for label, (name, count) in enumerate(counts.items()):
            (tmp_path / split / name / "more").mkdir(parents=True)
            for number in range(count):
                inside = "more/" if number == 4 else ""
                path = tmp_path / split / name / f"{inside}{number}.png"
                Image.fromarray(np.full((8, 8, 3), label * 100, np.uint8)).save(path)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def opened(folder, split="train", **options):
    return ClassFolder("insects", str(folder), split, **options)


def test_folders_are_classes_and_every_class_comes_early(folder):
    pictures = opened(folder)
    names = [pictures.picture_name(index) for index in range(len(pictures))]
    assert names[:5] == ["ant/0.png", "bee/0.png", "cat/0.png", "ant/1.png", "bee/1.png"]
    assert names[5:] == ["ant/2.png", "ant/3.png", "ant/more/4.png"]
    assert list(pictures.picture_classes) == ["ant", "bee", "cat"]
    assert (pictures.label_kinds, pictures.image_size) == (["label"], 8)
    for index in range(len(pictures)):
        sample = pictures[index]
        grey = round((float(sample["image"].mean()) + 1) * 127.5)
        assert grey == 100 * sample["label"]
    few = opened(folder, train_pictures=3)
    assert Counter(few[index]["label"] for index in range(3)) == {0: 1, 1: 1, 2: 1}
    assert (len(opened(folder, "test")), len(opened(folder, "val"))) == (3, 0)


def test_the_fingerprint_knows_bytes_and_classes(folder):
    before = opened(folder).fingerprint
    assert opened(folder).fingerprint == before
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(folder / "train" / "bee" / "0.png")
    assert opened(folder).fingerprint != before


def test_grey_and_cmyk_pictures_are_read(folder):
    for mode, name in (("L", "grey.jpg"), ("CMYK", "print.jpg")):
        Image.new(mode, (8, 8)).save(folder / "train" / "cat" / name)
    pictures = opened(folder)
    assert all(pictures[index]["image"].shape == (3, 8, 8) for index in range(len(pictures)))


def test_a_link_to_other_pictures_is_followed_and_a_loop_is_named(folder):
    (folder / "train" / "bee" / "ants").symlink_to(folder / "train" / "ant")
    assert len(opened(folder)) == 13
    (folder / "train" / "bee" / "round").symlink_to(folder / "train")
    with pytest.raises(UserError, match=r"links to a folder that it lies in, .*: take the link"):
        opened(folder)


def test_what_is_no_set_of_classes_is_named(folder):
    (folder / "train" / "cat" / "broken.png").write_bytes(b"no picture")
    pictures = opened(folder)
    with pytest.raises(UserError, match=r"broken\.png is no whole picture"):
        [pictures[index] for index in range(len(pictures))]
    (folder / "test" / "dog").mkdir()
    with pytest.raises(UserError, match=r"classes of .*test are not those of .*train.* has dog"):
        opened(folder, "test")
    (folder / "train" / "dog").mkdir()
    with pytest.raises(UserError, match=r"No pictures .* of class dog in .*train/dog"):
        opened(folder)
    with pytest.raises(UserError, match=r"No folder .*nowhere/train with a folder for each class"):
        opened(folder / "nowhere")
    (folder / "flat" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no folders, and those are the classes"):
        opened(folder / "flat")
    with pytest.raises(UserError, match=r"dataset\.crop=left"):
        opened(folder, crop="left")
