"""Sampled pictures as a set: shards that read as one, filtered, with real ones held out."""

import json
from functools import partial
from itertools import pairwise

import numpy as np
import psutil
import pytest
from PIL import Image

from diffdict.data.folder import FolderDataset
from diffdict.data.images import ImageDataModule
from diffdict.data.npz import NpzDataset
from diffdict.data.synthetic import synthetic_set
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
MASKS = RANDOM.integers(0, 9, (10, 16, 16)).astype(np.uint8)
UNSURE = RANDOM.permutation(10).astype(np.float32)
CLASSES = ToyFaces("train").class_names


def write(folder, sizes=(4, 4, 2), classes=CLASSES, save=np.savez):
    """The ten pictures cut into shards of these sizes."""
    folder.mkdir(parents=True)
    ends = np.cumsum((0, *sizes))
    for start, stop in pairwise(ends):
        name = folder / f"samples_{start:06d}-{stop - 1:06d}.npz"
        save(name, IMAGES[start:stop], MASKS[start:stop], UNSURE[start:stop])
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    (folder / "samples.json").write_text(json.dumps({"number": 10, "shard_size": 4}))
    return folder


def real(split, **options):
    return ToyFaces(split, image_size=16, train_pictures=3, test_pictures=2, **options)


def made(path, split="train", **options):
    return synthetic_set("set", str(path), real, split, **options)


def test_real_settings_are_named_where_they_stand(tmp_path):
    folder = tmp_path / "real" / "test"
    folder.mkdir(parents=True)
    Image.fromarray(IMAGES[0, :12]).save(folder / "dataset.path.png")
    np.save(folder / "dataset.path.npy", MASKS[0, :12])

    def of(split, **options):
        options = {"path": None, "num_classes": 9, "crop": None, "image_size": None} | options
        real = partial(FolderDataset, "photos", **options)
        return synthetic_set("set", str(tmp_path), real, split, image_size=16)

    with pytest.raises(
        UserError, match=r"^photos needs a folder of pictures: dataset\.real\.path="
    ):
        of("test")
    with pytest.raises(UserError, match=r"with the pictures of photos: dataset\.real\.path=…$"):
        of("test", path=str(tmp_path / "dataset.path"))
    pictures = of("test", path=str(tmp_path / "real"))
    with pytest.raises(UserError, match=r"/dataset\.path\.png is .* dataset\.real\.crop=center"):
        pictures[0]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_shards_read_as_one_file(tmp_path, save):
    data = NpzDataset("set", str(write(tmp_path / "s", save=save)), "train")
    assert (len(data), data.labelled, data.class_names) == (10, True, CLASSES)
    np.testing.assert_array_equal([data[i]["mask"] for i in range(10)], MASKS)
    bytes_ = [((data[i]["image"] + 1) * 127.5).round().permute(1, 2, 0) for i in range(10)]
    np.testing.assert_array_equal(bytes_, IMAGES)
    np.testing.assert_array_equal(data.uncertainty, UNSURE)
    assert data.picture_name(5).endswith("samples_000004-000007.npz[1]")


def test_shards_hold_no_file_open(tmp_path):
    """Fifty thousand pictures in shards of 64 are more than a process may open at once."""
    folder = write(tmp_path / "s", sizes=(1,) * 10)
    (folder / "samples.json").unlink()
    before = psutil.Process().num_fds()
    data = NpzDataset("set", str(folder), "train")
    assert sum(int(data[i]["mask"].sum()) for i in range(10)) == MASKS.sum()
    assert psutil.Process().num_fds() == before


def test_a_set_is_never_in_memory(tmp_path):
    shape = (300, 256, 256)
    np.savez(tmp_path / "x.npz", np.ones((*shape, 3), np.uint8), np.ones(shape, np.uint8))
    data = NpzDataset("set", str(tmp_path / "x.npz"), "train", num_classes=2)
    process, arrays = psutil.Process(), data.files[0]
    before = process.memory_full_info().uss
    assert sum(int(arrays.images[i].sum()) for i in range(300)) == 300 * 256 * 256 * 3
    assert process.memory_full_info().uss - before < 10e6, "of 59 MB"


def test_the_filter_takes_the_certain_and_their_order(tmp_path):
    write(tmp_path / "s")
    data = NpzDataset("set", str(tmp_path / "s"), "train", filter="portion", filter_portion=0.3)
    assert data.uncertainty.tolist() == [0, 1, 2, 3, 4, 5, 6]
    for index, position in enumerate(np.argsort(UNSURE)[:7]):
        np.testing.assert_array_equal(data[index]["mask"], MASKS[position])
    first = made(tmp_path / "s", max_data=6, filter="portion", filter_portion=0.5)
    assert first.uncertainty.tolist() == sorted(UNSURE[:6])[:3]
    assert len({made(tmp_path / "s", **o).fingerprint for o in ({}, {"max_data": 6})}) == 2
    held = NpzDataset("set", str(tmp_path / "s"), "test", train_pictures=4, filter="portion")
    assert len(held) == 6, "only training pictures are chosen among"


def test_real_pictures_are_held_out(tmp_path):
    write(tmp_path / "s")
    train, val, test = (made(tmp_path / "s", split) for split in ("train", "val", "test"))
    assert [len(data) for data in (train, val, test)] == [10, 3, 2]
    assert {data.name for data in (train, val, test)} == {"set"}
    assert train.palette == test.palette
    assert (val[1]["image"] == real("train")[1]["image"]).all()
    assert (test[1]["mask"] == real("test")[1]["mask"]).all()
    module = ImageDataModule(lambda split: made(tmp_path / "s", split), batch_size=4)
    assert module.facts["class_names"] == CLASSES
    assert len(module.train_dataloader()) == 2
    assert len(module.val_dataloader()) == 1


def spoil(folder, case: str) -> dict:
    """A set with something wrong with it, and how it is asked for."""
    last = folder / "samples_000008-000009.npz"
    if case == "lacks a shard":
        last.unlink()
    if case == "labels alone":
        for path in folder.glob("*.npz"):
            np.savez(path, IMAGES[:4], MASKS[:4])
    if case == "no masks":
        for path in folder.glob("*.npz"):
            np.savez(path, IMAGES[:4])
    if case == "another size":
        np.savez(last, IMAGES[:2, :8, :8], MASKS[:2, :8, :8], UNSURE[:2])
    if case == "no bytes":
        np.savez(last, IMAGES[:2] / 255, MASKS[:2], UNSURE[:2])
    if case == "torn":
        last.write_bytes(last.read_bytes()[:500])
    if case == "empty":
        for path in folder.glob("*.npz"):
            path.unlink()
        (folder / "samples.json").unlink()
    if case == "other classes":
        (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    filters = {"labels alone": {"filter": "portion"}, "too few": {"filter": "published"}}
    return filters.get(case, {})


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("lacks a shard", r"has 2 of its 3 shards: run the extract.py"),
        ("labels alone", r"holds no uncertainties .*dataset.filter=null"),
        ("no masks", "holds pictures without masks: python extract.py task=samples labeller=…"),
        ("another size", r"000008-000009.npz and .* no shards of one set.*\(8, 8, 3\)"),
        ("no bytes", "images of .*000008.* are float64 .*must be uint8"),
        ("torn", "no whole .npz file"),
        ("empty", r"No file .*train.npz with the train pictures of set: dataset.path=…"),
        ("other classes", r"labelled with 2 classes \(a, b …\), toy_faces has \d+"),
        ("too few", r"leaves none of the 10 pictures .* needs 310 or more. dataset.filter=portion"),
    ],
)
def test_a_spoilt_set_is_refused_in_one_line(tmp_path, case, message):
    options = spoil(write(tmp_path / "s"), case)
    with pytest.raises(UserError, match=message) as refusal:
        made(tmp_path / "s", **options)
    assert "\n" not in str(refusal.value)


def test_fewer_pictures_than_a_batch_are_named(tmp_path):
    write(tmp_path / "s")
    module = ImageDataModule(lambda split: made(tmp_path / "s", split), batch_size=11)
    with pytest.raises(UserError, match="set has 10 training pictures, fewer than one batch of 11"):
        module.train_dataloader()
