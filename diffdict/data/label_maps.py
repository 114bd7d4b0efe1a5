"""Sets in their published layout: pictures below one folder, maps of labels below another."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.data.folder import list_files
from diffdict.data.pictures import (
    check_fit,
    check_labels,
    check_split,
    decode_picture,
    fingerprint,
    fit_facts,
    fit_mask,
    fit_picture,
    palette,
    read_mask,
    split_range,
)
from diffdict.errors import UserError

UNKNOWN = 255  # what labels outside the classes become


class LabelMaps(Pictures):
    """The pictures of one split, in the order of their paths, each with its map of labels.

    pictures, masks: the folders of a split below path, {split} in them is what `splits` calls it.
    picture_end, mask_end: how a picture's name ends, and what stands there in its mask's.
    labels: {label in the file: class}, what is not in it counts for nothing; or first_label, the
    label of class 0, after which they count up. class_names, or names_file below path with a class
    a line, of which names_pattern takes the name.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int,
        *,
        pictures: str,
        masks: str,
        picture_end: str,
        mask_end: str,
        splits: Mapping[str, str | None],
        first_label: int = 0,
        labels: Mapping[int, int] | None = None,
        class_names: Sequence[str] | None = None,
        names_file: str | None = None,
        names_pattern: str = r"(.+)",
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = "center",
    ):
        if path is None:
            raise UserError(f"{name} needs the folder of its published archive: dataset.path=…")
        if not Path(path).is_dir():
            raise UserError(f"No folder {path} with the pictures of {name}: dataset.path=…")
        check_split(name, split)
        check_fit(crop, "bilinear", True)
        self.name, self.split, self.path = name, split, Path(path)
        self.image_size, self.crop, self.labelled = image_size, crop, True
        self.first_label, self.table = first_label, None if labels is None else dict(labels)
        self.ends = picture_end, mask_end
        self.class_names = list(class_names or self._read_names(names_file, names_pattern))
        self.num_classes, self.palette = len(self.class_names), palette(len(self.class_names))
        self.ignore_label = UNKNOWN
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        theirs = splits.get(split)
        self.files: list[str] = []
        if theirs is not None:
            self.picture_root = self.path / pictures.format(split=theirs)
            self.mask_root = self.path / masks.format(split=theirs)
            self._list(counts)
        elif split != "val" or counts["val"]:
            raise UserError(f"{name} was published without {split}: dataset.splits says which part")

    def _list(self, counts: Mapping[str, int | None]) -> None:
        """The pictures, each of which must have its mask."""
        for folder in (self.picture_root, self.mask_root):
            if not folder.is_dir():
                raise UserError(
                    f"{self.name} in its published layout has {folder.relative_to(self.path)}, "
                    f"which is not in {self.path}: unpack the archives there, or dataset.path=…"
                )
        end = self.ends[0]
        names = sorted(file for file in list_files(self.picture_root) if file.endswith(end))
        if not names:
            raise UserError(
                f"No pictures (…{end}) in {self.picture_root}: unpack the archive again"
            )
        span = split_range(len(names), self.split, counts, self.name, shared=False)
        self.files = names[span.start : span.stop]
        for file in self.files:
            if not self._mask_path(file).is_file():
                raise UserError(
                    f"The picture {self.picture_root / file} has no {self._mask_path(file)}: "
                    "unpack the archive of labels beside it"
                )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        path = self.picture_root / self.files[index]
        pixels = decode_picture(path, str(path))
        image = fit_picture(pixels, self.image_size, self.crop, str(path))
        mask = self._mask_path(self.files[index])
        labels = self._classes(read_mask(mask))
        if labels.shape != pixels.shape[:2]:
            raise UserError(
                f"The mask {mask} is {labels.shape[1]}×{labels.shape[0]}, its picture {path} is "
                f"{pixels.shape[1]}×{pixels.shape[0]}: they must be of one shape"
            )
        check_labels(labels, self.num_classes, UNKNOWN, f"The mask {mask}")
        return {
            "image": image,
            "index": index,
            "mask": fit_mask(labels, self.image_size, self.crop, str(mask)),
        }

    def picture_name(self, index: int) -> str:
        """The picture's path below the split's folder."""
        return self.files[index]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any name or byte of these pictures and masks, their classes, and size."""
        files = [self.picture_root / file for file in self.files]
        files += [self._mask_path(file) for file in self.files]
        names = [str(file.relative_to(self.path)) for file in files]
        meaning = repr((self.first_label, self.table, self.class_names))
        fit = fit_facts(self.image_size, self.crop, "bilinear")
        return fingerprint(self.path, names, meaning, *fit)

    def _mask_path(self, file: str) -> Path:
        return self.mask_root / (file.removesuffix(self.ends[0]) + self.ends[1])

    def _classes(
        self, labels: Integer[np.ndarray, "height width"]
    ) -> Integer[np.ndarray, "height width"]:
        """Numbers of `class_names`; UNKNOWN for every other label."""
        labels = labels.astype(np.int64)
        if self.table is None:
            shifted = labels - self.first_label
            outside = (labels == UNKNOWN) | (shifted < 0)
            return np.where(outside, UNKNOWN, shifted)
        table = np.full(max(256, int(labels.max()) + 1), UNKNOWN)
        for label, number in self.table.items():
            table[label] = number
        return table[labels]

    def _read_names(self, file: str | None, pattern: str) -> list[str]:
        """A class a line, as the set's own list has them."""
        path = self.path / str(file)
        if file is None or not path.is_file():
            raise UserError(
                f"{self.name} names its classes in {path}, which is not there: put it there, or "
                "dataset.class_names=[…]"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [match[1].strip() for line in lines if (match := re.fullmatch(pattern, line))]
        if not names:
            raise UserError(f"{path} names no classes as {pattern!r} says: fetch it again")
        return names
