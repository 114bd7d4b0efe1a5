"""toy_faces: the same faces everywhere, none in two splits, masks that tell the truth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from diffdict.data.faces.light import majority
from diffdict.data.toy_faces import SPLITS, ToyFaces
from diffdict.errors import UserError

COARSE = Path(__file__).parent / "toy_faces_coarse.npz"


def pictures(split: str, count: int, **keys) -> list[bytes]:
    """Pictures as bytes, to be compared whole."""
    faces = ToyFaces(split, **{f"{split}_pictures": count}, **keys)
    return [faces[i]["image"].numpy().tobytes() for i in range(count)]


def shares(faces: ToyFaces) -> torch.Tensor:
    masks = torch.stack([item["mask"] for item in faces])
    return torch.bincount(masks.flatten(), minlength=faces.num_classes) / masks.numel()


@given(index=st.integers(0, 2**31), size=st.integers(16, 96))
@settings(max_examples=25, deadline=None)
def test_any_face_at_any_size(index, size):
    """Shape, range and type hold for every index; a second instance draws the same."""
    first, second = (ToyFaces("train", image_size=size, train_pictures=2**32) for _ in range(2))
    item, again = first[index], second[index]
    assert item["image"].shape == (3, size, size)
    assert item["image"].dtype == torch.float32
    assert item["image"].abs().max() <= 1
    assert item["mask"].shape == (size, size)
    assert item["mask"].dtype == torch.int64
    assert 0 <= item["mask"].min() <= item["mask"].max() < first.num_classes
    assert item["index"] == index
    assert torch.equal(item["image"], again["image"])
    assert torch.equal(item["mask"], again["mask"])


def test_a_face_does_not_depend_on_the_count_nor_the_order():
    few, many = pictures("train", 3), pictures("train", 12)
    assert few == many[:3]
    faces = ToyFaces("train", train_pictures=12)
    assert [faces[i]["image"].numpy().tobytes() for i in (11, 4)] == [many[11], many[4]]


def test_workers_draw_the_same():
    faces = ToyFaces("val", val_pictures=6)
    loader = DataLoader(faces, batch_size=2, num_workers=2)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, torch.stack([item["image"] for item in faces]))


def test_the_drawing_is_the_recorded_one():
    """Means of 8 × 8 pixels as on the day the embedded network was trained; raise VERSION else."""
    with np.load(COARSE) as recorded:
        for split in SPLITS:
            faces = ToyFaces(split)
            images = torch.stack([faces[i]["image"] for i in range(4)])
            means = torch.nn.functional.avg_pool2d(images, 8).numpy()
            np.testing.assert_allclose(means, recorded[split], atol=0.02)


def test_splits_and_seeds_share_no_face():
    drawn = [face for split in SPLITS for seed in (0, 1) for face in pictures(split, 40, seed=seed)]
    assert len(set(drawn)) == len(drawn) == 240


def test_every_class_is_in_the_training_pictures_and_shares_are_bounded():
    faces = ToyFaces("train")
    seen = torch.stack([torch.bincount(f["mask"].flatten(), minlength=15) > 0 for f in faces])
    assert (seen.sum(0) >= 4).all(), dict(zip(faces.class_names, seen.sum(0).tolist(), strict=True))
    share = shares(ToyFaces("test"))
    assert 0.30 < share[0] < 0.45
    assert share[1:].max() < 0.20
    assert share.min() > 0.005


@pytest.mark.parametrize("index", range(6))
def test_a_mask_is_the_majority_of_a_finer_one(index):
    """Each pixel's class is the commonest among the 16 of the same face drawn 4 times finer."""
    coarse = ToyFaces("test", image_size=64)[index]["mask"]
    fine = ToyFaces("test", image_size=256)[index]["mask"]
    blocks = fine.view(64, 4, 64, 4).transpose(1, 2).reshape(64, 64, 16)
    votes = torch.nn.functional.one_hot(blocks, 15).sum(2)
    agree = coarse == votes.argmax(-1)
    assert agree.float().mean() > 0.97
    assert agree[votes.max(-1).values == 16].float().mean() > 0.995


def test_a_pixel_gets_the_class_that_covers_most_of_it():
    """Against counting by hand, ties to the smallest class."""
    classes = np.random.default_rng(0).integers(0, 15, (32, 32)).astype(np.uint8)
    classes[:8] //= 5  # few classes: clear majorities too
    mask = majority(classes, 8)
    for row, column in np.ndindex(8, 8):
        block = classes[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].ravel().tolist()
        assert mask[row, column] == min(set(block), key=lambda c: (-block.count(c), c))


def test_a_finer_picture_is_the_same_picture():
    coarse = ToyFaces("test", image_size=64)[3]["image"]
    fine = ToyFaces("test", image_size=256)[3]["image"]
    reduced = torch.nn.functional.avg_pool2d(fine, 4)
    assert (coarse - reduced).abs().mean() < 0.02


def test_mask_and_picture_fit():
    """Where the mask changes class the picture changes most: masks lie where the parts do."""
    within, between = [], []
    for item in ToyFaces("val"):
        step = (item["image"][:, :, 1:] - item["image"][:, :, :-1]).abs().mean(0)
        border = item["mask"][:, 1:] != item["mask"][:, :-1]
        within.append(step[~border].mean())
        between.append(step[border].mean())
    assert torch.stack(between).mean() > 3 * torch.stack(within).mean()


def test_palette_is_distinct():
    colours = torch.tensor(ToyFaces().palette, dtype=torch.float32)
    distances = torch.cdist(colours, colours) + 1e3 * torch.eye(len(colours))
    assert distances.min() > 40
    assert len(set(ToyFaces().class_names)) == ToyFaces().num_classes == 15


def test_fingerprint_follows_what_changes_the_pictures():
    makes = [{}, {"seed": 1}, {"image_size": 32}, {"train_pictures": 21}, {"split": "val"}]
    prints = [ToyFaces(**make).fingerprint for make in makes]
    assert len(set(prints)) == len(prints)
    assert ToyFaces().fingerprint == prints[0]
    assert ToyFaces(test_pictures=7).fingerprint == prints[0]


def test_iteration_ends():
    faces = ToyFaces("train", train_pictures=2)
    assert len(list(faces)) == len(faces) == 2
    with pytest.raises(IndexError):
        faces[2]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"split": "dev"}, "train, val, test"),
        ({"image_size": 8}, "image_size"),
        ({"seed": -1}, "seed"),
        ({"train_pictures": -1}, "train_pictures"),
    ],
)
def test_mistakes_are_told(keys, told):
    with pytest.raises(UserError, match=told):
        ToyFaces(**keys)
