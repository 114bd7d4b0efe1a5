"""LMDB sets as published: wide keys, WebP, windows, ranges, and attributes by name."""

import io

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.data.images import Augmented
from diffdict.data.lmdb import LmdbDataset
from diffdict.errors import UserError
from tests.data.test_lmdb import PICTURES, write

COUNT = 6
PIXELS = np.random.default_rng(0).integers(0, 255, (COUNT, 24, 20, 3), dtype=np.uint8)
RANGES = {"train": [0, 3], "val": [3, 4], "test": [4, 6]}
LIST = "6\nBald Hat\n" + "".join(f"{i + 1:06d}.jpg {i % 2 * 2 - 1} 1\n" for i in range(COUNT))
POSE = "6\nYaw Pitch Raw\n" + "".join(f"{i + 1:06d}.jpg {i}.5 0 -{i}\n" for i in range(COUNT))
FACES = {
    "image_size": 4,
    "stored_size": "None",
    "index_width": 7,
    "ranges": RANGES,
    "window": {"top": 9, "left": 5, "side": 8},
    "first_picture": 1,
    "attribute_names": {"Raw": "roll"},
    "attribute_mirrors": {"*": "same", "Yaw": "negated", "roll": "negated"},
}


def webp(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True)
    return file.getvalue()


@pytest.fixture
def faces(tmp_path):
    keys = {f"None-{i:07d}": webp(pixels) for i, pixels in enumerate(PIXELS)}
    write(tmp_path / "set", keys | {"length": str(COUNT).encode()})
    (tmp_path / "set" / "list.txt").write_text(LIST)
    (tmp_path / "set" / "pose.txt").write_text(POSE)
    return tmp_path / "set"


def made(path, split="train", **options):
    files = ["list.txt", "pose.txt"]
    options = FACES | {"attribute_files": files} | options
    return LmdbDataset("celeba", str(path), split, **options)


def test_a_window_is_cut_then_resized_and_rows_are_found_by_name(faces):
    test = made(faces, "test")
    assert [len(made(faces, split)) for split in ("train", "val", "test")] == [3, 1, 2]
    window = Image.fromarray(PIXELS[5][9:17, 5:13]).resize((4, 4), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(window)).permute(2, 0, 1).float() / 255 * 2 - 1
    assert torch.equal(test[1]["image"], expected)
    assert test[1]["attributes"].tolist() == [1, 1, 5.5, 0, -5]
    assert [a.name for a in test.attributes] == ["Bald", "Hat", "Yaw", "Pitch", "roll"]
    assert test.picture_name(0).endswith("[None-0000004]")
    whole = made(faces, "test", image_size=8)
    assert torch.equal(
        whole[1]["image"].add(1).mul(127.5).round().byte().permute(1, 2, 0),
        torch.from_numpy(PIXELS[5][9:17, 5:13].copy()),
    )


def test_another_order_of_the_list_changes_nothing(faces):
    before = made(faces, "test")[0]["attributes"]
    head, names, *rows = LIST.splitlines()
    (faces / "list.txt").write_text("\n".join([head, names, *reversed(rows)]) + "\n")
    assert torch.equal(made(faces, "test")[0]["attributes"], before)


def test_mirror_images_have_the_attributes_of_mirror_images(faces):
    pictures = made(faces)
    seen = {False: set(), True: set()}
    for epoch in range(8):
        sample = Augmented(pictures, seed=0, flip=True, crop_padding=0)[epoch, 1]
        mirrored = torch.equal(sample["image"], pictures[1]["image"].flip(-1))
        seen[mirrored].add(tuple(sample["attributes"].tolist()))
    assert seen == {False: {(1, 1, 1.5, 0, -1)}, True: {(1, 1, -1.5, 0, 1)}}
    silent = made(faces, attribute_mirrors=None)
    with pytest.raises(UserError, match="does not say what becomes of Bald, Hat"):
        Augmented(silent, seed=0, flip=True, crop_padding=0)


def test_the_fingerprint_follows_what_is_read(faces):
    prints = [
        made(faces).fingerprint,
        made(faces, window=None, crop="center").fingerprint,
        made(faces, attribute_files=None, attribute_mirrors=None).fingerprint,
        made(faces, "test").fingerprint,
    ]
    assert len(set(prints)) == 4
    (faces / "list.txt").write_text(LIST.replace("000001.jpg -1 1", "000001.jpg 1 1"))
    assert made(faces).fingerprint not in prints
    assert made(faces, "test").fingerprint == prints[3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"ranges": RANGES | {"val": [2, 4]}},
            "begins at 2 and another ends at 3",
        ),
        (
            {"ranges": RANGES | {"test": [4, 7]}},
            "the 6 pictures of celeba, got test",
        ),
        ({"ranges": {"test": [4, 6]}}, "says nothing of train"),
        ({"window": {"top": 20, "left": 5, "side": 8}}, "20×24, and dataset.window ends at 13×28"),
        ({"window": {"top": 2}}, "top, left and side of a square"),
        ({"index_width": 5}, "no key None-00000 .*dataset.index_width="),
        ({"index_width": 0}, "index_width"),
        ({"picture_file": "{}.png"}, "none for 1.png"),
        (
            {"attribute_files": ["nowhere.txt"]},
            "No file .*nowhere.txt with the attributes",
        ),
        ({"attribute_mirrors": {"yaw": "negated"}}, "names yaw, which is no attribute"),
    ],
)
def test_what_does_not_fit_is_said(faces, options, said):
    with pytest.raises(UserError, match=said):
        made(faces, **options)[0]


def test_lists_that_do_not_fit_are_said(faces):
    (faces / "list.txt").write_text(
        "5\n" + "\n".join(LIST.splitlines()[1:2] + LIST.splitlines()[3:])
    )
    with pytest.raises(UserError, match=r"none for 000001\.jpg, one of 1 pictures of celeba"):
        made(faces)
    (faces / "list.txt").write_text(LIST)
    (faces / "pose.txt").write_text(LIST)
    with pytest.raises(UserError, match="need names that differ"):
        made(faces, attribute_mirrors=None)


def test_pictures_that_are_none_and_cut_files_are_refused(faces, tmp_path):
    environment = lmdb.open(str(faces), map_size=1 << 20)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"None-0000001", b"RIFF no picture")
        transaction.delete(b"None-0000002")
    with pytest.raises(UserError, match=r"None-0000002 .*missing in the middle"):
        made(faces)
    with pytest.raises(UserError, match=r"None-0000001\] is no whole picture"):
        made(faces, train_pictures=2)[1]
    write(tmp_path / "cut", PICTURES)
    data = tmp_path / "cut" / "data.mdb"
    data.write_bytes(data.read_bytes()[:-4096])
    with pytest.raises(UserError, match="it was cut, fetch or copy it again"):
        LmdbDataset("cut", str(tmp_path / "cut"), "train", image_size=8)
