"""`dataset=pascal_part`: Pascal-Part as published, PASCAL VOC 2010 with every object's parts."""

import functools
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from diffdict.data.archives.mat_file import MatValue, StructArray, read_mat
from diffdict.data.base import Pictures
from diffdict.data.pictures import (
    check_fit,
    check_split,
    decode_picture,
    fingerprint,
    fit_facts,
    fit_mask,
    fit_picture,
    palette,
    split_range,
)
from diffdict.errors import UserError

PICTURES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations_Part", "ImageSets"
IMAGE_SETS = ("Main", "Segmentation")
BODY = "torso neck head"
CAR = "front side back roof door window wheel mirror license_plate headlight"
# the objects in PASCAL VOC's order; the parts of each in the order in which they are painted
PARTS = {
    "aeroplane": "body stern wing tail engine wheel",
    "bicycle": "wheel chainwheel handlebar saddle headlight",
    "bird": f"{BODY} wing leg foot tail beak eye",
    "boat": "",
    "bottle": "body cap",
    "bus": CAR,
    "car": CAR,
    "cat": f"{BODY} leg paw tail ear nose eye",
    "chair": "",
    "cow": f"{BODY} leg tail muzzle horn ear eye",
    "diningtable": "",
    "dog": f"{BODY} leg paw tail ear muzzle nose eye",
    "horse": f"{BODY} leg hoof tail muzzle ear eye",
    "motorbike": "wheel handlebar saddle headlight",
    "person": f"{BODY} arm hand leg foot hair ear eyebrow nose mouth eye",
    "pottedplant": "plant pot",
    "sheep": f"{BODY} leg tail muzzle horn ear eye",
    "sofa": "",
    "train": (
        "head coach head_front head_side head_back head_roof "
        "coach_front coach_side coach_back coach_roof headlight"
    ),
    "tvmonitor": "screen",
}
OBJECTS = tuple(PARTS)
MERGED = {  # what the authors call a part by its side; all other names stay
    "wing": "lwing rwing",
    "wheel": "fwheel bwheel",
    "leg": (
        "lleg rleg lfleg rfleg lbleg rbleg llleg luleg rlleg ruleg "
        "lfuleg lflleg rfuleg rflleg lbuleg lblleg rbuleg rblleg"
    ),
    "foot": "lfoot rfoot",
    "paw": "lfpa rfpa lbpa rbpa",
    "hoof": "lfho rfho lbho rbho",
    "arm": "llarm luarm rlarm ruarm",
    "hand": "lhand rhand",
    "eye": "leye reye",
    "ear": "lear rear",
    "horn": "lhorn rhorn",
    "eyebrow": "lebrow rebrow",
    "front": "frontside",
    "side": "leftside rightside",
    "back": "backside",
    "roof": "roofside",
    "mirror": "leftmirror rightmirror",
    "license plate": "fliplate bliplate",
    "head front": "hfrontside",
    "head side": "hleftside hrightside",
    "head back": "hbackside",
    "head roof": "hroofside",
    "coach front": "cfrontside",
    "coach side": "cleftside crightside",
    "coach back": "cbackside",
    "coach roof": "croofside",
}
PART_OF = {own: part for part, names in MERGED.items() for own in names.split()}


def part_class(part_name: str) -> str:
    """What a part counts as: left or right, front or back, upper or lower, and numbers go."""
    name = re.sub(r"_\d+$", "", part_name)
    return PART_OF.get(name, name)


class PascalParts(Pictures):
    """The pictures of one split that show an object, or all of them, in the lists' order.

    object: one of the 20. Classes are the background, which every other object belongs to, what no
    part covers of the object, and its parts by `part_class`. null: background and the 20 objects.
    image_set: Main, or of its pictures those that are also in PASCAL VOC's list Segmentation.
    Later objects of a file lie in front of earlier ones, and parts are painted as PARTS has them.
    """

    labelled = True

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int = 256,
        *,
        object: str | None = "horse",
        image_set: str = "Main",
        splits: Mapping[str, str | None],
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = "center",
    ):
        check_split(name, split)
        if object is not None and object not in OBJECTS:
            close = get_close_matches(str(object), OBJECTS, 1)
            raise UserError(
                f"dataset.object={object} is no object of {name}. "
                f"{f'Did you mean {close[0]}? ' if close else ''}It is one of "
                f"{', '.join(OBJECTS)}, or null for all of them"
            )
        if image_set not in IMAGE_SETS:
            raise UserError(
                f"dataset.image_set={image_set} is unknown: it is {' or '.join(IMAGE_SETS)}"
            )
        for part in (PICTURES, ANNOTATIONS, LISTS):
            if path is None or not (Path(path) / part).is_dir():
                raise UserError(
                    f"No {part} of {name} in {path}: dataset.path=… names the folder VOC2010 with "
                    f"Pascal-Part's {ANNOTATIONS} in it"
                )
        check_fit(crop, "bilinear", True)
        self.name, self.split, self.path = name, split, Path(path)
        self.image_size, self.crop = image_size, crop
        self.object, self.image_set = object, image_set
        parts = [part.replace("_", " ") for part in PARTS.get(object, "").split()]
        self.class_names = ["background", *(OBJECTS if object is None else [object]), *parts]
        self.num_classes, self.palette = len(self.class_names), palette(len(self.class_names))
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        theirs = splits.get(split)
        self.pictures: list[str] = []
        if theirs is not None:
            self._list(theirs, counts)
        elif split != "val" or counts["val"]:
            raise UserError(f"{name} was published without {split}: dataset.splits says which part")

    def _list(self, theirs: str, counts: Mapping[str, int | None]) -> None:
        """The pictures of the lists, each of which must have its annotation."""
        shown = "" if self.object is None else f"{self.object}_"
        file, names = self._read_list("Main", f"{shown}{theirs}")
        if self.image_set != "Main":
            chosen = set(self._read_list(self.image_set, theirs)[1])
            names = [name for name in names if name in chosen]
        span = split_range(len(names), self.split, dict(counts), self.name, shared=False)
        self.pictures = names[span.start : span.stop]
        for index in range(len(self)):
            for path in (self._picture(index), self._annotation(index)):
                if not path.is_file():
                    raise UserError(
                        f"{file} names {self.pictures[index]}, and {path} is not there: unpack "
                        "VOC 2010 and Pascal-Part again"
                    )

    def _read_list(self, image_set: str, name: str) -> tuple[Path, list[str]]:
        """A list of PASCAL VOC, and its pictures: all, or where each has a flag those with 1."""
        file = self.path / LISTS / image_set / f"{name}.txt"
        if not file.is_file():
            raise UserError(
                f"{self.name} has no {file}, PASCAL VOC's list of pictures: unpack VOC 2010 again"
            )
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        return file, [words[0] for words in lines if words and words[1:] in ([], ["1"])]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        path = self._picture(index)
        pixels = decode_picture(path, str(path))
        image = fit_picture(pixels, self.image_size, self.crop, str(path))
        file = self._annotation(index)
        labels = self._labels(file, pixels.shape[:2])
        mask = fit_mask(labels, self.image_size, self.crop, str(file))
        return {"image": image, "index": index, "mask": mask}

    def picture_name(self, index: int) -> str:
        """Its file's name."""
        return f"{self.pictures[index]}.jpg"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any name or byte of these pictures and parts, their classes, and size."""
        files = [self._picture(index) for index in range(len(self))]
        files += [self._annotation(index) for index in range(len(self))]
        names = [str(file.relative_to(self.path)) for file in files]
        fit = fit_facts(self.image_size, self.crop, "bilinear")
        return fingerprint(self.path, names, repr(self.class_names), *fit)

    def _picture(self, index: int) -> Path:
        return self.path / PICTURES / f"{self.pictures[index]}.jpg"

    def _annotation(self, index: int) -> Path:
        return self.path / ANNOTATIONS / f"{self.pictures[index]}.mat"

    def _labels(self, file: Path, shape: tuple[int, int]) -> Int64[np.ndarray, "height width"]:
        """The class of every pixel."""
        variables = read_mat(file)
        annotation = variables.get("anno")
        if not isinstance(annotation, StructArray) or len(annotation.elements) != 1:
            raise _unlike(file, "one struct anno", f"the variables {', '.join(variables)}")
        labels = np.zeros(shape, np.int64)
        for each in _structs(annotation.elements[0], "objects", file):
            number, shown = _object_number(each, file), _shown(each, shape, file)
            if self.object is None:
                labels[shown] = number
                continue
            labels[shown] = int(OBJECTS[number - 1] == self.object)
            if OBJECTS[number - 1] == self.object:
                for part, place in self._parts(each, shape, file):
                    labels[place] = part
        return labels

    def _parts(
        self, each: dict, shape: tuple[int, int], file: Path
    ) -> list[tuple[int, Bool[np.ndarray, "height width"]]]:
        """Class and place of an object's parts, in the order of painting."""
        names, parts = self.class_names[2:], []
        for part in _structs(each, "parts", file):
            name = part.get("part_name")
            if not isinstance(name, str) or part_class(name) not in names:
                raise _unlike(file, f"in part_name a part of {self.object}", name)
            parts.append((2 + names.index(part_class(name)), _shown(part, shape, file)))
        return sorted(parts, key=lambda part: part[0])


def _structs(value: dict, field: str, file: Path) -> Iterator[dict]:
    """The structs of a field, which is an empty array where there are none."""
    structs = value.get(field)
    if isinstance(structs, np.ndarray) and not structs.size:
        return
    if not isinstance(structs, StructArray):
        raise _unlike(file, f"structs in {field}", structs)
    yield from structs.elements


def _object_number(each: dict, file: Path) -> int:
    """PASCAL VOC's number of an object's class, from 1."""
    value = each.get("class_ind")
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind not in "iuf":
        raise _unlike(file, "a number in class_ind", value)
    number = value.item()
    if number not in range(1, len(OBJECTS) + 1):
        raise _unlike(file, f"1 to {len(OBJECTS)} in class_ind", number)
    return int(number)


def _shown(each: dict, shape: tuple[int, int], file: Path) -> Bool[np.ndarray, "height width"]:
    """Where an object or a part is."""
    mask = each.get("mask")
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise _unlike(file, "height × width in mask", mask)
    if mask.shape != shape:
        raise UserError(
            f"A mask of {file} is {mask.shape[1]}×{mask.shape[0]}, its picture is "
            f"{shape[1]}×{shape[0]}: they must be of one shape. Unpack both again"
        )
    return mask != 0


def _unlike(file: Path, needed: str, came: MatValue | int | float | None) -> UserError:
    shape = getattr(came, "shape", None)
    got = came if shape is None else f"an array of size {'×'.join(map(str, shape))}"
    return UserError(
        f"{file} is not as Pascal-Part publishes it: it needs {needed}, got {got}. "
        f"Unpack {ANNOTATIONS} again"
    )
