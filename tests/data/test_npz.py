"""Arrays of pictures: mapped or decoded once, three forms of file, and what is refused."""

import json
import pickle

import numpy as np
import pytest
import torch

from diffdict.data.images import ImageDataModule
from diffdict.data.members import find_member
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


def test_pictures_alone_are_a_set_too(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=IMAGES)
    data = made(tmp_path / "x.npz", num_classes=None)
    assert (data.labelled, data.num_classes, data.uncertainty) == (False, 0, None)
    assert set(data[0]) == {"image", "index"}


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
        ({"images": IMAGES, "labels": LABELS / 1}, {}, r"labels of .*float64.*must be integers"),
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
