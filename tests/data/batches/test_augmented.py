"""Whole batches of arrays: the same pixels as a picture at a time, whatever happens to them."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from diffdict.data.attributes import Attribute
from diffdict.data.base import Pictures
from diffdict.data.batches.augmented import Augmented
from diffdict.data.cifar import CifarDataset
from diffdict.data.npz import NpzDataset
from diffdict.data.pictures import in_range
from diffdict.errors import UserError
from tests.data.test_cifar import write


def arrays(folder, count=10, **more):
    """An .npz of classes in two shards, and the set of its training pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for shard in range(2):
        images = generator.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
        labels = generator.integers(0, 3, count)
        labels[0] = more.get("first", labels[0])
        np.savez(folder / f"{shard}.npz", images=images, labels=labels)
    counts = {"train_pictures": 2 * count - 1, "test_pictures": 1}
    return NpzDataset("set", str(folder), "train", num_classes=3, **counts)


@pytest.fixture(params=["cifar", "npz", "npz smaller"])
def pictures(request, tmp_path):
    if request.param == "cifar":
        return CifarDataset("cifar10", str(write(tmp_path / "set")), "train")
    made = arrays(tmp_path)
    made.image_size = 8 if request.param == "npz smaller" else made.image_size
    return made


def same(batch, samples):
    expected = default_collate(samples)
    assert batch.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(batch[key], value), key
        assert batch[key].dtype == value.dtype


@pytest.mark.parametrize(
    "changes", [(False, 0), (True, 0), (False, 3), (True, 3), (True, 3, 1.5)], ids=str
)
def test_a_batch_has_the_pixels_of_its_pictures(pictures, changes):
    made = Augmented(pictures, 5, *changes)
    order = np.random.default_rng(0).permutation(len(pictures)).tolist()
    for epoch in range(2):
        keys = [(epoch, index) for index in order]
        same(made.batch(keys), [made[key] for key in keys])


def test_a_batch_without_changes_and_its_labels(pictures):
    order = [7, 0, 18, 3]
    same(pictures.batch(order), [pictures[index] for index in order])
    batch = pictures.labels_of(order)
    assert batch["label"].tolist() == [pictures[index]["label"] for index in order]
    assert [pictures.labels(index)["label"] for index in order] == batch["label"].tolist()
    assert batch["index"].tolist() == order


def test_bytes_are_gathered_at_once(pictures):
    planes = pictures.planes([3, 1])
    if pictures.image_size == 8:
        assert planes is None
    else:
        assert (planes.dtype, planes.shape[:2]) == (np.uint8, (2, 3))


def test_a_batch_names_the_picture_whose_class_is_none(tmp_path):
    made = arrays(tmp_path, first=7)
    with pytest.raises(UserError, match=r"0\.npz\[0\] holds label 7, its 3 classes"):
        made.batch([4, 0])
    with pytest.raises(IndexError):
        CifarDataset("cifar10", str(write(tmp_path / "set")), "train").planes([20])


class Gazes(Pictures):
    """Pictures whose bytes come at once, with what a mirror changes of them."""

    name, split, image_size, fingerprint = "gazes", "train", 4, "gazes"
    attributes = (
        Attribute("left", "number", "right"),
        Attribute("right", "number", "left"),
        Attribute("yaw", "number", "negated"),
    )

    def __len__(self):
        return 9

    def __getitem__(self, index):
        values = torch.tensor([index, 10 + index, 1 + index], dtype=torch.float32)
        image = in_range(self.planes([index]))[0]
        return {"image": image, "attributes": values, "index": index}

    def planes(self, indices):
        draws = [np.random.default_rng(index).integers(0, 256, (3, 4, 4)) for index in indices]
        return np.stack(draws).astype(np.uint8)


@pytest.mark.parametrize("flip", [True, False])
def test_attributes_of_a_batch_are_mirrored_with_its_pictures(flip):
    pictures = Gazes()
    made, keys = Augmented(pictures, 5, flip, 1), [(1, index) for index in range(9)]
    batch = made.batch(keys)
    same(batch, [made[key] for key in keys])
    assert torch.equal(batch["attributes"][:, 2] < 0, made.mirrored(keys))
    assert 0 < made.mirrored(keys).sum() < 9 if flip else not made.mirrored(keys).any()
