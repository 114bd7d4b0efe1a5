"""Folders of pictures: where masks stand, what is taken, and what each bad input answers."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.data.folder import FolderDataset, list_files
from diffdict.errors import UserError


def draw(path, number: int, size=(8, 8), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 0, 0)).convert(mode).save(path)


def label(path, number: int, size=(8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.full(size[::-1], number, dtype=np.uint8)
    np.save(path, labels) if path.suffix == ".npy" else Image.fromarray(labels).save(path)


@pytest.fixture
def road(tmp_path):
    """A look-alike of the sets we ship beside classes.json: train/ and test/, masks as .npy."""
    path = tmp_path / "road"
    for split, count in (("train", 4), ("test", 3)):
        for number in range(count):
            draw(path / split / f"p{number}.png", number)
            label(path / split / f"p{number}.npy", 255 if number == 2 else number % 2)
    facts = {"classes": ["sky", "road"], "num_classes": 2, "ignore_label": 255}
    (path / "classes.json").write_text(json.dumps(facts))
    return path


def made(path, split="train", **options) -> FolderDataset:
    return FolderDataset(
        name="set", path=None if path is None else str(path), split=split, **options
    )


def test_classes_json_names_the_classes(road):
    data = made(road)
    assert (len(data), data.labelled, data.image_size) == (4, True, 8)
    assert (data.class_names, data.num_classes, data.ignore_label) == (["sky", "road"], 2, 255)
    assert len(set(data.palette)) == 2
    assert [data[i]["mask"].unique().tolist() for i in range(4)] == [[0], [1], [255], [1]]
    sample = data[3]
    assert (sample["index"], sample["mask"].dtype) == (3, torch.int64)
    assert sample["image"][0].unique().item() == pytest.approx(3 / 255 * 2 - 1)
    assert len(made(road, "test")) == 3
    assert len(made(road, "val")) == 0
    assert made(road).fingerprint != made(road, "test").fingerprint


def test_the_published_layout_and_the_first_n(road, tmp_path):
    shutil.move(road / "train", tmp_path / "set/real/train")
    shutil.move(road / "test", tmp_path / "set/real/test")
    data = made(tmp_path / "set", num_classes=2, ignore_label=255, train_pictures=2, image_size=4)
    assert [data.picture_name(i) for i in range(2)] == ["p0.png", "p1.png"]
    assert len(data) == 2
    assert data[0]["image"].shape == (3, 4, 4)
    assert data[0]["mask"].shape == (4, 4)


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        ("a.png", "a.npy"),
        ("a.jpg", "a_mask.png"),
        ("deep/er/a.JPG", "deep/er/a_mask.png"),
        ("deep/a.png", "masks/deep/a.png"),
        ("images/a.webp", "masks/a.npy"),
        ("a.b.png", "a.b.npy"),
    ],
)
@pytest.mark.parametrize("split", ["", "train/"])
def test_where_masks_may_stand(tmp_path, picture, mask, split):
    draw(tmp_path / f"{split}{picture}", 5)
    label(tmp_path / f"{split}{mask}", 3)
    data = made(tmp_path, num_classes=4)
    assert (len(data), data[0]["mask"].unique().item()) == (1, 3)


def test_masks_in_a_tree_beside_the_splits(tmp_path):
    draw(tmp_path / "train/x/a.png", 5)
    label(tmp_path / "masks/train/x/a.png", 3)
    assert made(tmp_path, num_classes=4)[0]["mask"].unique().item() == 3


def test_unlabelled_pictures_are_cut_in_the_order_of_their_paths(tmp_path):
    for number, name in enumerate(["b/c.png", "a/z.jpg", "b.png", "a_mask.png", ".hidden.png"]):
        draw(tmp_path / name, number)
    (tmp_path / "notes.txt").write_text("no picture")
    data = made(tmp_path)
    assert data.pictures == ["a/z.jpg", "a_mask.png", "b.png", "b/c.png"]
    assert (data.labelled, data.num_classes, data.class_names) == (False, 0, [])
    assert set(data[0]) == {"image", "index"}
    cut = {"train_pictures": 2, "val_pictures": 1}
    parts = [made(tmp_path, split, **cut).pictures for split in ("train", "val", "test")]
    assert parts == [["a/z.jpg", "a_mask.png"], ["b.png"], ["b/c.png"]]


def test_a_drawn_order_is_that_of_its_seed_and_knows_no_neighbours(tmp_path):
    for number in range(20):
        draw(tmp_path / "film" / "train" / f"{number:02}.png", number)
    by_path = made(tmp_path / "film").pictures
    drawn, other = (made(tmp_path / "film", order_seed=seed).pictures for seed in (0, 1))
    assert sorted(drawn) == sorted(other) == by_path
    assert len({tuple(drawn), tuple(other), tuple(by_path)}) == 3
    assert made(tmp_path / "film", order_seed=0, train_pictures=5).pictures == drawn[:5]
    (tmp_path / "film" / "train" / "07.png").unlink()
    left = made(tmp_path / "film", order_seed=0).pictures
    assert left == [name for name in drawn if name != "07.png"]


def test_masks_may_be_left_unread(road):
    (road / "train/p1.npy").unlink()
    assert set(made(road, masks=False)[1]) == {"image", "index"}


def test_a_folder_is_listed_once_whatever_its_depth(tmp_path):
    draw(tmp_path / "a/b/c/d.png", 1)
    draw(tmp_path / "e.png", 1)
    assert sorted(list_files(tmp_path)) == ["a/b/c/d.png", "e.png"]


def spoil(road, case: str) -> dict:
    """One thing wrong with the road set; what the dataset is asked for."""
    train, first = road / "train", road / "train/p0.png"
    if case == "empty":
        shutil.rmtree(train)
        train.mkdir()
    elif case == "no test":
        shutil.rmtree(road / "test")
        return {"split": "test"}
    elif case == "no mask":
        (train / "p0.npy").unlink()
    elif case == "mask size":
        label(train / "p0.npy", 1, (8, 9))
    elif case == "mask dtype":
        np.save(train / "p0.npy", np.full((8, 8), 0.5, dtype=np.float32))
    elif case == "mask shape":
        np.save(train / "p0.npy", np.zeros((8, 8, 3), dtype=np.uint8))
    elif case == "mask of pickles":
        np.save(train / "p0.npy", np.array([{}], dtype=object))
    elif case == "mask torn":
        (train / "p0.npy").write_bytes((train / "p0.npy").read_bytes()[:100])
    elif case == "mask empty":
        (train / "p0.npy").write_bytes(b"")
    elif case == "mask of three channels":
        (train / "p0.npy").unlink()
        draw(train / "p0_mask.png", 0)
    elif case == "label":
        label(train / "p0.npy", 7)
    elif case == "torn":
        big = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(big).save(first)
        first.write_bytes(first.read_bytes()[:2000])
    elif case == "text":
        first.write_text("not a picture")
    elif case == "float":
        first.unlink()
        Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(train / "p0.tif")
    elif case == "wide":
        draw(first, 0, (9, 8))
        label(train / "p0.npy", 0, (9, 8))
    elif case == "classes.json":
        (road / "classes.json").write_text("[1]")
    elif case == "nothing says how many":
        (road / "classes.json").unlink()
    elif case == "names":
        return {"class_names": ["a"], "num_classes": 2}
    elif case == "val wanted":
        return {"split": "val", "val_pictures": 2}
    elif case == "crop":
        return {"crop": "left"}
    return {}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty", r"No pictures \(.*\.png .*\) in .*train"),
        ("no test", r"no folder .*test for split test"),
        (
            "no mask",
            r"p0\.png has no mask beside it \(p0\.npy, p0_mask\.png .*dataset\.masks=false",
        ),
        ("mask size", r"p0\.npy is 8×9, its picture .*p0\.png is 8×8"),
        ("mask dtype", r"p0\.npy must be whole numbers, it is float32: save it as uint8"),
        ("mask shape", r"p0\.npy must be height × width, it is of shape \(8, 8, 3\): save it so"),
        ("mask of pickles", r"p0\.npy cannot be read"),
        ("mask torn", r"p0\.npy cannot be read"),
        ("mask empty", r"p0\.npy cannot be read"),
        ("mask of three channels", r"p0_mask\.png has 3 channels \(RGB\), it needs one"),
        ("label", r"p0\.npy holds label 7, its 2 classes are 0 to 1: give dataset\.num_classes"),
        ("torn", r"p0\.png is no whole picture"),
        ("text", r"p0\.png is no whole picture"),
        ("float", r"p0\.tif has floating-point pixels"),
        ("wide", r"p0\.png is 9×8, pictures must be square: dataset\.crop=center"),
        ("classes.json", r"classes\.json must be JSON like"),
        ("nothing says how many", r"has masks, and nothing says how many classes"),
        ("names", r"num_classes=2 and 1 class_names"),
        ("val wanted", r"no folder .*val for split val"),
        ("crop", r"dataset\.crop=left is unknown: it is center or null"),
    ],
)
def test_bad_input_is_refused_in_one_line(road, case, message):
    options = {"image_size": 8} | spoil(road, case)
    with pytest.raises(UserError, match=message) as refusal:
        made(road, **options)[0]
    assert "\n" not in str(refusal.value)


def test_a_picture_that_is_not_square_is_cropped_when_asked(road):
    spoil(road, "wide")
    sample = made(road, image_size=8, crop="center")[0]
    assert sample["image"].shape == (3, 8, 8)
    assert sample["mask"].shape == (8, 8)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_whole_numbers_are_labels_whatever_their_dtype(road, dtype, shape):
    np.save(road / "train/p0.npy", np.ones(shape, dtype=dtype))
    assert made(road)[0]["mask"].unique().tolist() == [1]


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_other_numbers_are_no_labels(road, value):
    np.save(road / "train/p0.npy", np.full((8, 8), value, dtype=np.float32))
    with pytest.raises(UserError, match="must be whole numbers"):
        made(road)[0]


@pytest.mark.parametrize("side", [3, 5, 16, 20])
def test_a_mask_of_another_size_is_resized_by_itself(road, side):
    """From its own grid to the size asked for, as OpenCV's nearest: source floor(i · side / 6)."""
    labels = np.random.default_rng(side).integers(0, 2, (side, side), dtype=np.uint8)
    np.save(road / "train/p0.npy", labels)
    rows = [i * side // 6 for i in range(6)]
    mask = made(road, image_size=6)[0]["mask"]
    assert torch.equal(mask, torch.tensor(labels[np.ix_(rows, rows)].astype(np.int64)))


def test_a_mask_of_another_size_is_cropped_with_its_picture(road):
    draw(road / "train/p0.png", 0, (12, 8))
    labels = np.zeros((4, 6), dtype=np.uint8)
    labels[:, 1:5] = 1  # the middle square
    np.save(road / "train/p0.npy", labels)
    mask = made(road, image_size=8, crop="center")[0]["mask"]
    assert mask.shape == (8, 8)
    assert mask.unique().tolist() == [1]


def test_fewer_pictures_than_configured_are_taken_and_said(road):
    with pytest.warns(UserWarning, match="set has 4 pictures for train, 30 were asked for"):
        assert len(made(road, train_pictures=30)) == 4
    with pytest.raises(UserError, match="5 asked for"):  # of a bare folder others would lose theirs
        made(road / "train", train_pictures=5)


def test_splits_may_lie_in_folders_of_other_names(road):
    shutil.move(road / "train", road / "drawn")
    shutil.move(road / "test", road / "real" / "test")
    folders = {"train": "drawn", "val": "real/train", "test": "real/test"}
    assert [len(made(road, split, folders=folders)) for split in folders] == [4, 0, 3]
    del folders["val"]  # which is then where it would be
    assert [len(made(road, split, folders=folders)) for split in ("train", "val")] == [4, 0]


def test_missing_data_says_so(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.path=…"):
        made(None)
    with pytest.raises(UserError, match=r"No folder .*away"):
        made(tmp_path / "away")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot list .*gone: No such file"):
        list_files(tmp_path / "gone")


# ---------------------------------------------------------------------- attributes.csv


def test_a_table_beside_the_pictures_says_what_they_show(tmp_path):
    for split, names in (("train", ("b", "a")), ("test", ("c",))):
        for name in names:
            (tmp_path / split).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / f"{name}.png")
    table = tmp_path / "attributes.csv"
    table.write_text("name,glasses,yaw\ntrain/a.png,1,0.5\ntrain/b.png,-1,\nc.png,1,2\n")

    def made(split, **options):
        return FolderDataset("mine", str(tmp_path), split, 8, **options)

    train, test = made("train"), made("test", attribute_mirrors={"yaw": "negated", "*": "same"})
    assert [tuple(a) for a in test.attributes] == [
        ("glasses", "binary", "same"),
        ("yaw", "number", "negated"),
    ]
    assert train[0]["attributes"].tolist() == [1, 0.5]
    assert train[1]["attributes"].isnan().tolist() == [False, True]
    assert test[0]["attributes"].tolist() == [1, 2]
    assert train.facts["attributes"][0]["mirrored"] is None
    before = train.fingerprint
    table.write_text(table.read_text().replace("0.5", "0.6"))
    assert made("train").fingerprint != before
    table.unlink()
    assert made("train").attributes == ()
    with pytest.raises(UserError, match=r"has no .*attributes\.csv"):
        made("train", attribute_mirrors={"yaw": "negated"})
