"""Arrays of pictures: mapped or decoded once, three forms of file, and what is refused."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from diffdict.data.archives.npz_arrays import find_member
from diffdict.data.attributes import Attribute
from diffdict.data.images import ImageDataModule
from diffdict.data.npz import NpzDataset
from diffdict.errors import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
MASKS = RANDOM.integers(0, 3, (6, 5, 5)).astype(np.uint8)
LABELS = np.array([0, 2, 1, 1, 0, 2])
UNSURE = np.linspace(0, 1, 6)


def made(path, split="train", **options) -> NpzDataset:
    options = {"name": "set", "num_classes": 3} | options
    return NpzDataset(path=None if path is None else str(path), split=split, **options)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_members_are_mapped_and_equal(tmp_path, save, cache):
    arrays = {"images": IMAGES, "labels": MASKS, "fortran": np.asfortranarray(MASKS)}
    save(tmp_path / "x.npz", **arrays)
    for name, array in arrays.items():
        mapped = find_member(tmp_path / "x.npz", name).map()
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(mapped, array)
    assert bool(list(cache.rglob("*.npy"))) == (save is np.savez_compressed)


def test_a_changed_file_is_decoded_again(tmp_path):
    for images in (IMAGES, IMAGES[:4]):
        np.savez_compressed(tmp_path / "x.npz", images=images)
        assert len(made(tmp_path / "x.npz")) == len(images)


def test_a_classification_set_of_two_files(tmp_path):
    np.savez_compressed(tmp_path / "train.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "test.npz", images=IMAGES[:2], labels=LABELS[:2])
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["cat", "dog", "owl"]}))
    data = made(tmp_path, num_classes=None)
    assert (len(data), data.num_classes, data.class_names[2]) == (6, 3, "owl")
    assert (data.labelled, data.image_size) == (False, 5)
    assert [data[i]["label"] for i in range(6)] == LABELS.tolist()
    torch.testing.assert_close(
        (data[3]["image"] + 1) / 2 * 255, torch.from_numpy(IMAGES[3]).permute(2, 0, 1).float()
    )
    assert (len(made(tmp_path, "test")), len(made(tmp_path, "val"))) == (2, 0)
    assert data.fingerprint != made(tmp_path, train_pictures=3).fingerprint


@pytest.mark.parametrize(
    "arrays", [(IMAGES, MASKS, UNSURE), (IMAGES, MASKS, RANDOM.normal(size=(6, 512)), UNSURE)]
)
def test_sampled_labelled_sets_of_both_forms(tmp_path, arrays):
    np.savez(tmp_path / "samples.npz", *arrays)
    data = made(tmp_path / "samples.npz", "test", train_pictures=2)
    assert (len(data), data.labelled) == (4, True)
    np.testing.assert_array_equal(data[1]["mask"], MASKS[3])
    np.testing.assert_allclose(data.uncertainty, UNSURE[2:])
    assert data.picture_name(1).endswith("samples.npz[3]")


def test_masks_may_be_floats_that_are_whole(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=MASKS.astype(np.float32))
    mask = made(tmp_path / "x.npz")[1]["mask"]
    assert (mask.dtype, mask.tolist()) == (torch.int64, MASKS[1].tolist())


def test_pictures_alone_are_a_set_too(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=IMAGES)
    data = made(tmp_path / "x.npz", num_classes=None)
    assert (data.labelled, data.num_classes, data.uncertainty) == (False, 0, None)
    assert set(data[0]) == {"image", "index"}


VALUES = np.array([[1, 0.5], [0, -2], [np.nan, 3], [1, np.nan], [0, 0], [1, 1]])
NAMED = {
    "attributes": VALUES,
    "attribute_names": ["hat", "yaw"],
    "attribute_kinds": ["binary", "number"],
    "attribute_mirrors": ["same", "negated"],
}


def same(values: torch.Tensor, expected: np.ndarray) -> bool:
    return np.array_equal(values, expected.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pictures_have_attributes(tmp_path, save):
    save(tmp_path / "x.npz", images=IMAGES, **NAMED)
    data = made(tmp_path / "x.npz", num_classes=None)
    assert data.attributes == (
        Attribute("hat", "binary", "same"),
        Attribute("yaw", "number", "negated"),
    )
    assert (data.label_kinds, data.num_classes) == (["attributes"], 0)
    for index in range(6):
        assert same(data[index]["attributes"], VALUES[index])
    assert data[0]["attributes"].dtype == torch.float32


def test_names_of_attributes_are_enough(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=IMAGES, attributes=VALUES > 0, attribute_names=["a", "b"])
    data = made(tmp_path / "x.npz", num_classes=None)
    assert data.attributes == (Attribute("a", "number"), Attribute("b", "number"))
    assert data[0]["attributes"].tolist() == [1, 1]


def test_masks_a_class_and_attributes_come_together(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=MASKS, label=LABELS % 2, **NAMED)
    data = made(tmp_path / "x.npz", picture_classes=["indoors", "outdoors"])
    assert data.label_kinds == ["mask", "label", "attributes"]
    assert (data.num_classes, data.picture_classes) == (3, ["indoors", "outdoors"])
    assert [data[i]["label"] for i in range(6)] == (LABELS % 2).tolist()
    np.testing.assert_array_equal(data[2]["mask"], MASKS[2])
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": ["a", "b", "c"], "picture_classes": ["in", "out"]})
    )
    data = made(tmp_path / "x.npz", num_classes=None)
    assert (data.class_names, data.picture_classes) == (["a", "b", "c"], ["in", "out"])


@pytest.mark.parametrize("word", ["class_names", "picture_classes"])
def test_a_class_a_picture_has_one_list_of_names_without_masks(tmp_path, word):
    for array in ("label", "labels"):
        np.savez(tmp_path / "x.npz", **{"images": IMAGES, array: LABELS})
        data = made(tmp_path / "x.npz", num_classes=None, **{word: ["cat", "dog", "owl"]})
        assert data.label_kinds == ["label"]
        assert data.picture_classes == data.class_names == ["cat", "dog", "owl"]
        assert data.num_classes == 3
        assert [data[i]["label"] for i in range(6)] == LABELS.tolist()


@pytest.mark.parametrize("label", [LABELS, LABELS[:2] + 0.5, np.array(["cat"] * 6)])
def test_an_array_label_whose_classes_nobody_names_is_left_unread(tmp_path, label):
    """As task=samples writes it beside pictures without masks."""
    np.savez(tmp_path / "x.npz", arr_0=IMAGES, label=label)
    data = made(tmp_path / "x.npz", num_classes=None)
    assert (data.label_kinds, set(data[0])) == ([], {"image", "index"})
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=MASKS, label=label)
    assert set(made(tmp_path / "x.npz")[0]) == {"image", "index", "mask"}


def test_splits_parts_and_filters_take_labels_along(tmp_path):
    files = {"x": slice(0, 4), "y": slice(4, 6)}
    for name, rows in files.items():
        np.savez(
            tmp_path / f"{name}.npz",
            images=IMAGES[rows],
            labels=MASKS[rows],
            uncertainties=UNSURE[::-1][rows].copy(),
            label=LABELS[rows],
            **NAMED | {"attributes": VALUES[rows]},
        )
    options = {"picture_classes": ["a", "b", "c"], "train_pictures": 3, "val_pictures": 2}
    for split, rows in {"train": [0, 1, 2], "val": [3, 4], "test": [5]}.items():
        data = made(tmp_path, split, **options)
        assert [data[i]["label"] for i in range(len(data))] == LABELS[rows].tolist()
        for place, row in enumerate(rows):
            assert same(data[place]["attributes"], VALUES[row])
    certain = made(tmp_path, picture_classes=["a", "b", "c"], filter="portion", filter_portion=0.5)
    assert certain.rows.tolist() == [5, 4, 3]
    assert [certain[i]["label"] for i in range(3)] == LABELS[[5, 4, 3]].tolist()
    assert same(certain[1]["attributes"], VALUES[4])
    loader = ImageDataModule(lambda split: certain, batch_size=2, num_workers=2).test_dataloader()
    batches = list(loader)
    assert torch.cat([batch["label"] for batch in batches]).tolist() == LABELS[[5, 4, 3]].tolist()
    assert same(torch.cat([batch["attributes"] for batch in batches]), VALUES[[5, 4, 3]])


def test_shards_of_a_set_have_one_kind_of_attributes(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, **NAMED)
    np.savez(tmp_path / "y.npz", images=IMAGES, **NAMED | {"attribute_names": ["hat", "pitch"]})
    with pytest.raises(UserError, match="are no shards of one set"):
        made(tmp_path)
    np.savez(tmp_path / "x.npz", images=IMAGES, label=LABELS)
    np.savez(tmp_path / "y.npz", images=IMAGES)
    with pytest.raises(UserError, match=r"y.npz has no array label, as others of its set"):
        made(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": LABELS[:5]}, r"label of .*of shape \(5,\), must be whole .*\(6,\)"),
        ({"label": MASKS}, r"label of .*of shape \(6, 5, 5\)"),
        ({"label": LABELS.astype(str)}, r"label of .*<U21.*must be whole numbers"),
        ({"label": LABELS + 0.5}, r"label of .*x.npz\[0\] must be whole numbers"),
        ({"label": LABELS * np.nan}, r"label of .*x.npz\[0\] must be whole numbers"),
        ({"label": LABELS - 1}, r"class of .*x.npz\[0\] is -1, its 3 classes are 0 to 2"),
        ({"label": LABELS + 3}, r"class of .*x.npz\[0\] is 3, .*dataset.picture_classes"),
        ({"label": None}, "no array label .*names 3: add it, or dataset.picture_classes=null"),
        ({"attributes": VALUES[:5]}, r"attributes of .*\(5, 2\), must be numbers .*\(6, 2\)"),
        ({"attributes": VALUES[:, :1]}, r"attributes of .*of shape \(6, 1\)"),
        ({"attributes": VALUES[:, 0]}, r"attributes of .*of shape \(6,\)"),
        ({"attributes": VALUES.astype(str)}, "attributes of .*<U.*must be numbers"),
        ({"attributes": VALUES * 1j}, "attributes of .*complex.*must be numbers"),
        ({"attributes": VALUES + 0.5}, r"hat of .*x.npz\[0\] is 1.5: a binary one is 0, 1"),
        ({"attributes": VALUES * [1, 1e300]}, r"yaw of .*x.npz\[0\] is inf"),
        ({"attributes": None}, "must hold attributes and attribute_names together"),
        ({"attribute_names": None}, "must hold attributes and attribute_names together"),
        ({"attribute_names": ["hat"]}, "1 attribute_names, 2 attribute_kinds, 2 attribute_m"),
        ({"attribute_kinds": ["binary"]}, "2 attribute_names, 1 attribute_kinds"),
        ({"attribute_kinds": ["yes", "no"]}, "hat of .* is of kind 'yes'"),
        ({"attribute_kinds": [0, 1]}, "attribute_kinds of .* are int64 of shape .*strings"),
        ({"attribute_names": [["hat", "yaw"]]}, r"attribute_names of .*shape \(1, 2\)"),
        (
            {"attribute_names": ["hat", "y\na"]},
            r"attribute_names of .* hold 'y\\na', which is no w",
        ),
        ({"attribute_mirrors": ["same", "pitch"]}, "yaw of .* becomes 'pitch'"),
        ({"attribute_names": [b"hat", b"yaw"]}, "attribute_names of .* are .S3.*strings"),
    ],
)
def test_bad_labels_are_refused_in_one_line(tmp_path, change, message):
    arrays = {"images": IMAGES, "labels": MASKS, "label": LABELS, **NAMED, **change}
    np.savez(tmp_path / "x.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(UserError, match=message) as refusal:
        made(tmp_path / "x.npz", picture_classes=["a", "b", "c"])[0]
    assert "\n" not in str(refusal.value)


def torn(path, name: str, change, **arrays) -> None:
    """An archive of these arrays, one of whose files is changed in its bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            data = stream.getvalue()
            archive.writestr(f"{key}.npy", change(data) if key == name else data)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "images",
            lambda data: data.replace(b"(6, 5", b"(9, 5"),
            r"shape \(9, 5, 5, 3\) and uint8",
        ),
        ("images", lambda data: data.replace(b"(6, 5", b"(-6,5"), r"shape \(-6, 5, 5, 3\)"),
        ("attributes", lambda data: data[:-8], r"shape \(6, 2\) and float64 in 88 bytes"),
        ("attribute_names", lambda data: data.replace(b"<U3", b"<U9"), r"\(2,\) and <U9 in 24 "),
        (
            "attribute_names",
            lambda data: data[:-4] + b"\xff" * 4,
            r"attribute_names of .* hold .*, which is no word",
        ),
    ],
)
def test_arrays_that_lie_are_refused_in_one_line(tmp_path, name, change, message):
    torn(tmp_path / "x.npz", name, change, images=IMAGES, **NAMED)
    with pytest.raises(UserError, match=message) as refusal:
        made(tmp_path / "x.npz", num_classes=None)[0]
    assert "\n" not in str(refusal.value)


def test_files_that_are_no_arrays_are_none(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("label", "cat")
        archive.writestr("attributes", "hat")
    assert made(tmp_path / "x.npz", num_classes=None).label_kinds == []


def test_compressed_arrays_that_are_damaged_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[60:80] = b"\xff" * 20
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"no whole \.npz file"):
        made(tmp_path / "x.npz", num_classes=None)


def test_workers_and_copies_read_the_same(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=MASKS)
    data = made(tmp_path / "x.npz")
    assert len(pickle.dumps(data)) < 5000, "the mapping does not travel"
    assert torch.equal(pickle.loads(pickle.dumps(data))[4]["mask"], data[4]["mask"])
    loader = ImageDataModule(lambda split: data, batch_size=4, num_workers=2).test_dataloader()
    got = torch.cat([batch["mask"] for batch in loader])
    np.testing.assert_array_equal(got, MASKS)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"pictures": IMAGES}, {}, r"x\.npz holds pictures, it needs images"),
        ({"images": IMAGES / 255}, {}, r"images of .*float64 of shape \(6, 5, 5, 3\).*uint8"),
        ({"images": IMAGES[..., 0]}, {}, r"images of .*uint8 of shape \(6, 5, 5\)"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, {}, r"x\.npz\[0\] must be whole numbers, it"),
        ({"images": IMAGES, "labels": LABELS * 1j}, {}, r"labels of .*complex.*be whole numbers"),
        ({"images": IMAGES, "labels": LABELS[:5]}, {}, r"labels of .*of shape \(5,\)"),
        ({"images": IMAGES, "labels": MASKS[:, :4]}, {}, r"labels of .*of shape \(6, 4, 5\)"),
        ({"images": IMAGES, "labels": LABELS + 5}, {}, r"holds label 5, its 3 classes"),
        ({"images": IMAGES, "labels": MASKS + 3}, {}, r"holds label 3, its 3 classes"),
        ({"images": IMAGES, "labels": LABELS}, {"num_classes": None}, "how many classes"),
        ({"arr_0": IMAGES, "arr_1": MASKS, "arr_2": MASKS}, {}, "uncertainties of"),
        ({"images": IMAGES[:, :4]}, {}, "5×4, pictures must be square"),
        ({"images": np.array([{}], dtype=object)}, {}, "no whole .npz file .*objects"),
        ({"images": IMAGES}, {"split": "test"}, "has 0 pictures for test and at least 1 asked"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, arrays, options, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message) as refusal:
        made(tmp_path / "x.npz", **options)[0]
    assert "\n" not in str(refusal.value)


def test_bad_files_are_refused_in_one_line(tmp_path):
    for path, message in [
        (None, "needs an .npz file"),
        (tmp_path / "none.npz", "No file .*none.npz with the train pictures"),
        (tmp_path, "No file .*train.npz .*only test.npz: dataset.path"),
        (tmp_path / "torn.npz", "no whole .npz file"),
        (tmp_path / "text.npz", "no whole .npz file"),
    ]:
        np.savez(tmp_path / "test.npz", images=IMAGES)
        (tmp_path / "torn.npz").write_bytes((tmp_path / "test.npz").read_bytes()[:300])
        (tmp_path / "text.npz").write_text("hello")
        if path == tmp_path:
            (tmp_path / "torn.npz").unlink()
            (tmp_path / "text.npz").unlink()
        with pytest.raises(UserError, match=message) as refusal:
            made(path)
        assert "\n" not in str(refusal.value)
