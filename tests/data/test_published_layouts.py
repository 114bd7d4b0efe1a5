"""Small folders in the layouts that ADE20K, COCO-Stuff, Cityscapes and CelebAMask-HQ came in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from diffdict.cli.paths import folder
from diffdict.data.face_parts import FIRST, ORDER, FaceParts
from diffdict.errors import UserError
from diffdict.run.instantiate import make

SIDE = 16


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(seed: int, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, width, 3), np.uint8)


def labels(*values: int) -> np.ndarray:
    """Stripes of these labels."""
    return np.repeat(np.array(values, np.uint8), SIDE // len(values))[:, None].repeat(SIDE, 1)


def ade20k(root: Path) -> None:
    for split, name, values in (
        ("training", "ADE_train_00000001", (0, 1, 3, 150)),
        ("training", "ADE_train_00000002", (2, 2, 2, 2)),
        ("validation", "ADE_val_00000001", (4, 0, 0, 1)),
    ):
        save(root / f"images/{split}/{name}.jpg", picture(1))
        save(root / f"annotations/{split}/{name}.png", labels(*values))
    rows = [
        f"{i}\t0.1576\t11664\t1172\t0\t{'wall' if i == 1 else f'thing {i}'}" for i in range(1, 151)
    ]
    text = "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows])
    (root / "objectInfo150.txt").write_text(text)


def coco_stuff(root: Path) -> None:
    for split, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        save(root / f"images/{split}/{name}.jpg", picture(2))
        save(root / f"stuffthingmaps/{split}/{name}.png", labels(0, 181, 255, 17))
    rows = ["0: unlabeled", "1: person", *(f"{i}: stuff {i}" for i in range(2, 183))]
    (root / "labels.txt").write_text("\n".join(rows))


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        name = f"{city}/{city}_000000_000019"
        save(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", picture(3, 2 * SIDE))
        wide = labels(7, 33, 0, 11).repeat(2, 1)
        save(root / f"gtFine/{split}/{name}_gtFine_labelIds.png", wide)
        save(root / f"gtFine/{split}/{name}_gtFine_color.png", picture(4, 2 * SIDE))


LAYOUTS = {"ade20k": ade20k, "coco_stuff": coco_stuff, "cityscapes": cityscapes}
EXPECTED = {  # classes, names of the first and the last, pictures by split, the first's stripes
    "ade20k": (150, "wall", "thing 150", {"train": 2, "val": 0, "test": 1}, (255, 0, 2, 149)),
    "coco_stuff": (
        182,
        "person",
        "stuff 182",
        {"train": 1, "val": 0, "test": 1},
        (0, 181, 255, 17),
    ),
    "cityscapes": (19, "road", "bicycle", {"train": 2, "val": 0, "test": 1}, (0, 18, 255, 2)),
}


def opened(word: str, root: Path, split: str, **options):
    """As `dataset=WORD dataset.path=ROOT` opens it."""
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        words = [f"dataset={word}", f"dataset.path={root}", f"dataset.image_size={SIDE}"]
        words += [f"dataset.{key}={value}" for key, value in options.items()]
        cfg = compose("extract", words)
    return make(cfg.dataset)(split=split)


@pytest.mark.parametrize("word", LAYOUTS)
def test_a_published_folder_is_read_by_its_word(tmp_path, word):
    LAYOUTS[word](tmp_path)
    classes, first, last, counts, stripes = EXPECTED[word]
    for split, count in counts.items():
        pictures = opened(word, tmp_path, split)
        assert len(pictures) == count
        assert (pictures.num_classes, pictures.ignore_label) == (classes, 255)
        assert (pictures.class_names[0], pictures.class_names[-1]) == (first, last)
    sample = opened(word, tmp_path, "train")[0]
    assert sample["image"].shape == (3, SIDE, SIDE)
    expected = torch.tensor(stripes).repeat_interleave(SIDE // 4)[:, None].expand(SIDE, SIDE)
    assert torch.equal(sample["mask"], expected)


def test_the_fingerprint_is_of_pictures_masks_and_classes(tmp_path):
    ade20k(tmp_path)
    one = opened("ade20k", tmp_path, "train").fingerprint
    assert opened("ade20k", tmp_path, "train").fingerprint == one
    assert opened("ade20k", tmp_path, "train", train_pictures=1).fingerprint != one
    save(tmp_path / "annotations/training/ADE_train_00000002.png", labels(2, 2, 2, 3))
    assert opened("ade20k", tmp_path, "train").fingerprint != one


def test_what_is_not_as_published_is_one_line(tmp_path):
    ade20k(tmp_path)
    mask = tmp_path / "annotations/training/ADE_train_00000002.png"
    save(mask, labels(151, 1))
    with pytest.raises(UserError, match="holds label 150, its 150 classes are 0 to 149"):
        opened("ade20k", tmp_path, "train")[1]
    save(mask, labels(1, 1)[:8])
    with pytest.raises(UserError, match=r"16×8, its picture .* is 16×16"):
        opened("ade20k", tmp_path, "train")[1]
    mask.unlink()
    with pytest.raises(UserError, match=r"ADE_train_00000002.jpg has no .*unpack the archive"):
        opened("ade20k", tmp_path, "train")
    (tmp_path / "objectInfo150.txt").write_text("nothing\n")
    with pytest.raises(UserError, match="names no classes"):
        opened("ade20k", tmp_path, "test")
    (tmp_path / "objectInfo150.txt").unlink()
    with pytest.raises(UserError, match=r"names its classes in .*objectInfo150\.txt"):
        opened("ade20k", tmp_path, "test")
    with pytest.raises(UserError, match="has images/training, which is not in"):
        opened("ade20k", tmp_path / "images", "train", class_names="[a]")
    with pytest.raises(UserError, match=r"No folder .*nowhere.*dataset\.path="):
        opened("ade20k", tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="no split 'tset'"):
        opened("ade20k", tmp_path, "tset", class_names="[a]")


def faces(root: Path) -> None:
    """Face 2001 of the training, 5 of the validation, 7 of the test."""
    rows = ["idx  orig_idx  orig_file"]
    for face, original in ((2001, 119_613), (5, FIRST["val"]), (7, FIRST["test"])):
        rows.append(f"{face}  {original}  {original + 1:06d}.jpg")
        save(root / f"CelebA-HQ-img/{face}.jpg", picture(face))
        for part, where in (("skin", slice(0, 12)), ("hair", slice(0, 4)), ("nose", slice(2, 8))):
            shown = np.zeros((SIDE, SIDE, 3), np.uint8)
            shown[where] = 255
            save(root / f"CelebAMask-HQ-mask-anno/{face // 2000}/{face:05d}_{part}.png", shown)
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(rows))


def test_parts_of_faces_are_painted_in_the_authors_order(tmp_path):
    faces(tmp_path)
    names = {split: [opened("celebamask_hq", tmp_path, split).picture_name(0)] for split in FIRST}
    assert names == {"train": ["2001.jpg"], "val": ["5.jpg"], "test": ["7.jpg"]}
    pictures = opened("celebamask_hq", tmp_path, "train")
    number = {name: i for i, name in enumerate(pictures.class_names)}
    assert len(pictures.class_names) == 19
    column = pictures[0]["mask"][:, 0].tolist()
    skin, hair, nose = (number[part] for part in ("skin", "hair", "nose"))
    assert column == [hair] * 4 + [nose] * 4 + [skin] * 4 + [0] * 4, "hair over nose over skin"
    assert torch.equal(pictures.labels(0)["mask"], pictures[0]["mask"])


def test_faces_without_their_files_are_one_line(tmp_path):
    faces(tmp_path)
    one = opened("celebamask_hq", tmp_path, "test").fingerprint
    part = tmp_path / "CelebAMask-HQ-mask-anno/0/00007_hair.png"
    save(part, np.zeros((8, 8), np.uint8))
    assert opened("celebamask_hq", tmp_path, "test").fingerprint != one
    with pytest.raises(UserError, match=r"00007_hair.png is not of the size"):
        opened("celebamask_hq", tmp_path, "test")[0]
    part.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"00007_hair.png cannot be read"):
        opened("celebamask_hq", tmp_path, "test")[0]
    for name in ORDER:
        (tmp_path / f"CelebAMask-HQ-mask-anno/0/00007_{name}.png").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"7\.jpg has no part in"):
        opened("celebamask_hq", tmp_path, "test")[0]
    with pytest.raises(UserError, match="No CelebA-HQ-img of faces in"):
        FaceParts("faces", str(tmp_path / "nowhere"), "train")
