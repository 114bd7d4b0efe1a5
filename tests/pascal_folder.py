"""Small folders laid out as PASCAL VOC 2010 with Pascal-Part's annotations, written by scipy."""

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from diffdict.data.pascal_part import OBJECTS

HEIGHT, WIDTH = 16, 24  # the middle 16 × 16 is seen
TRAIN = ("2008_000008", "2008_000009", "2008_000019", "2008_000051")
TEST = ("2008_000052",)


def rows(start: int, end: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A mask of these rows."""
    mask = np.zeros(shape, bool)
    mask[start:end] = True
    return mask


def thing(name: str, mask: np.ndarray, **parts: np.ndarray) -> dict:
    """An object as the annotations have it."""
    pairs = [("part_name", object), ("mask", object)]
    listed = np.empty((1, len(parts)), pairs)
    listed[0] = list(parts.items())
    return {
        "class": name,
        "class_ind": np.uint8(OBJECTS.index(name) + 1),
        "mask": mask,
        "parts": listed if parts else np.zeros((0, 0)),
    }


def annotate(root: Path, name: str, *things: dict, **variables: object) -> Path:
    """An annotation; of no objects an empty array, as MATLAB has it."""
    keys = ("class", "class_ind", "mask", "parts")
    listed = np.zeros((1, len(things)), [(key, object) for key in keys])
    for place, each in enumerate(things):
        listed[0, place] = tuple(each[key] for key in keys)
    anno = {"imname": name, "objects": listed if things else np.zeros((0, 0))}
    path = root / f"Annotations_Part/{name}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables or {"anno": anno}, do_compression=True)
    return path


def horse(**parts: np.ndarray) -> dict:
    return thing("horse", rows(0, 12), **parts)


def pascal(root: Path) -> None:
    """To train on a ridden horse, two others and a boat; to test on a horse."""
    for place, name in enumerate((*TRAIN, *TEST)):
        path = root / f"JPEGImages/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    parts = {"leye": rows(0, 1), "head": rows(0, 4), "lfuleg": rows(8, 9), "rblleg": rows(9, 10)}
    rider = thing("person", rows(4, 6), torso=rows(4, 6))
    annotate(root, TRAIN[0], horse(**parts), rider)
    for name in (*TRAIN[1:3], *TEST):
        annotate(root, name, horse())
    annotate(root, TRAIN[3], thing("boat", rows(2, 4)))
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(TRAIN))
    (lists / "val.txt").write_text("\n".join(TEST))
    for shown, *flags in (("horse", 1, 1, 1, -1), ("boat", -1, -1, -1, 1), ("cow", 0, -1, -1, 0)):
        lines = [f"{name} {flag:2}\n" for name, flag in zip(TRAIN, flags, strict=True)]
        (lists / f"{shown}_train.txt").write_text("".join(lines))
    (root / "ImageSets/Segmentation").mkdir()
    (root / "ImageSets/Segmentation/train.txt").write_text(f"2007_000032\n{TRAIN[2]}\n{TRAIN[3]}\n")
    (lists / "horse_val.txt").write_text(f"{TEST[0]}  1\n")
