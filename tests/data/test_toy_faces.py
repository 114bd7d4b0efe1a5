"""toy_faces: the same faces everywhere, none in two splits, masks that tell the truth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from diffdict.data.batches.augmented import paired_flip
from diffdict.data.faces.light import majority_class
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
    mask = majority_class(classes, 8)
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


# ---------------------------------------------------------------------- what a face shows


def shown(faces: ToyFaces) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Every attribute of all faces by its name, and the masks."""
    samples = list(faces)
    values = torch.stack([sample["attributes"] for sample in samples])
    names = [attribute.name for attribute in faces.attributes]
    return dict(zip(names, values.T, strict=True)), torch.stack([s["mask"] for s in samples])


@pytest.fixture(scope="module")
def drawn():
    return shown(ToyFaces("train", train_pictures=240))


def test_the_fingerprint_is_that_of_stores_without_attributes():
    assert ToyFaces().fingerprint == (
        "15b1878edf1a784a504b5225f33a426b34fdb29b8265d11de6c743c7fd66a3ca"
    )


@pytest.mark.parametrize(
    ("name", "part"), [("glasses", "glasses"), ("hat", "hat"), ("beard", "beard")]
)
def test_what_is_worn_is_in_the_mask(drawn, name, part):
    values, masks = drawn
    pixels = (masks == ToyFaces().class_names.index(part)).flatten(1).sum(1)
    assert torch.equal(values[name] == 1, pixels > 0)
    assert 0.2 < values[name].mean() < 0.5


def test_an_open_mouth_has_an_inside_and_a_bare_bald_head_no_hair(drawn):
    values, masks = drawn
    inside = (masks == ToyFaces().class_names.index("mouth")).flatten(1).sum(1)
    hair = (masks == ToyFaces().class_names.index("hair")).flatten(1).sum(1)
    assert torch.equal(values["open_mouth"] == 1, inside > 0)
    assert torch.equal(values["gape"] > 0, inside > 0)
    assert not hair[values["bald"] == 1].any()
    assert (hair[values["bald"] == 0] > 0).all()
    assert torch.equal(hair > 0, values["hair_lightness"].isfinite() & (hair > 0))


def test_kinds_are_kinds_of_something(drawn):
    values, _ = drawn
    for whole, kinds in (
        ("hat", ("beanie", "brimmed_hat", "cap", "party_hat")),
        ("beard", ("full_beard", "goatee", "moustache")),
    ):
        assert torch.equal(sum(values[kind] for kind in kinds), values[whole])
        assert all(values[kind].any() for kind in kinds)
    assert (values["dark_glasses"] <= values["glasses"]).all()


def test_what_a_hat_or_dark_glasses_hide_is_unknown(drawn):
    values, _ = drawn
    covered = (values["hat"] == 1) & (values["party_hat"] == 0)
    for name in ("bald", "bangs", "bun", "spikes"):
        assert torch.equal(values[name].isnan(), covered), name
    for name in ("wink", "heavy_lids"):
        assert torch.equal(values[name].isnan(), values["dark_glasses"] == 1), name
    hidden = {"bald", "bangs", "bun", "spikes", "wink", "heavy_lids"}
    hidden |= {"dark_hair", "hair_lightness"}  # of those without any
    for name in values.keys() - hidden:
        assert values[name].isfinite().all(), name


def centre(masks: torch.Tensor, *parts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Where these parts lie on average, across and down, in shares of the picture."""
    classes = torch.tensor([ToyFaces().class_names.index(part) for part in parts])
    share = torch.isin(masks, classes).double()
    share /= share.sum((1, 2), keepdim=True)
    at = (torch.arange(masks.shape[-1]).double() + 0.5) / masks.shape[-1]
    return (share.sum(1) @ at), (share.sum(2) @ at)


def follows(seen: torch.Tensor, told: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([seen, told.double()]))[0, 1])


@pytest.mark.parametrize("mirrored", [False, True])
def test_numbers_are_those_of_the_picture_and_of_its_mirror_image(mirrored):
    """From masks and pixels alone, in the picture and in what data.flip makes of it."""
    faces = ToyFaces("train", train_pictures=240)
    samples = [paired_flip(one, faces.attributes) if mirrored else one for one in faces]
    names = [attribute.name for attribute in faces.attributes]
    values = torch.stack([one["attributes"] for one in samples]).T
    told = dict(zip(names, values, strict=True))
    masks = torch.stack([one["mask"] for one in samples])
    face = ("skin", "nose", "lips", "mouth", "brows", "eyes", "iris", "glasses", "beard")
    (x, _), (nose_x, nose_y) = centre(masks, *face), centre(masks, "nose")
    (lips_x, _) = centre(masks, "lips", "mouth")
    lean = -(lips_x - nose_x)  # of the head, to its right where the chin goes left
    assert follows(x, told["place_x"]) > 0.85
    assert follows(nose_y, told["place_y"]) > 0.7
    still = told["waving"] == 0
    assert follows((nose_x - x)[still], told["yaw"][still]) > 0.7
    assert follows(lean, told["tilt"]) > 0.5
    light = torch.stack([one["image"].mean(0) for one in samples])
    half = light.shape[-1] // 2
    bare = masks == 1
    left = (light * bare)[:, :, :half].sum((1, 2)) / bare[:, :, :half].sum((1, 2))
    right = (light * bare)[:, :, half:].sum((1, 2)) / bare[:, :, half:].sum((1, 2))
    assert follows(right - left, told["light_x"]) > 0.6
    for side, number in (
        ("looks_right", "yaw"),
        ("tilts_right", "tilt"),
        ("lit_from_right", "light_x"),
    ):
        assert torch.equal(told[side] == 1, told[number] > 0)
    bright = torch.stack([one["image"].mean() for one in samples])
    assert follows(bright, told["wall_lightness"]) > 0.4
