"""Folders of pictures that are classes: path/train/CLASS/… and path/test/CLASS/…."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diffdict.data.base import Pictures, PictureSample
from diffdict.data.folder import PICTURES
from diffdict.data.pictures import (
    check_fit,
    check_split,
    decode_picture,
    fingerprint,
    fit_facts,
    fit_picture,
    palette,
    split_range,
)
from diffdict.errors import UserError


class ClassFolder(Pictures):
    """The pictures of one split; their classes are the folders of train/, by name.

    The first of each class come first, then the second ones: the first n pictures are of as many
    classes as can be. val/ may be missing.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int | None = None,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = None,
        resize: str = "bilinear",
    ):
        check_split(name, split)
        if path is None:
            raise UserError(f"{name} needs a folder with train/CLASS/…: dataset.path=…")
        check_fit(crop, resize)
        self.name, self.split, self.crop, self.path = name, split, crop, Path(path)
        self.resize = resize
        self.class_names = self.picture_classes = list_classes(self.path / "train")
        self.num_classes, self.palette = len(self.class_names), palette(len(self.class_names))
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        listed = self._listed(counts["val"])
        places = split_range(len(listed), split, counts, name, shared=False)
        self.pictures = [listed[place] for place in places]
        self.image_size = image_size if image_size is not None else self._native_size()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any name or byte of these pictures, with their classes, and their size."""
        names = [f"{self.split}/{file}" for file, _ in self.pictures]
        fit = fit_facts(self.image_size, self.crop, self.resize)
        return fingerprint(self.path, names, self.class_names, *fit)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> PictureSample:
        file, label = self.pictures[index]
        path = self.path / self.split / file
        pixels = decode_picture(path, str(path))
        image = fit_picture(pixels, self.image_size, self.crop, str(path), self.resize)
        return {"image": image, "label": label, "index": index}

    def labels(self, index: int) -> PictureSample:
        """The class; no file is opened."""
        return {"label": self.pictures[index][1], "index": index}

    def picture_name(self, index: int) -> str:
        """The picture's path below the split's folder."""
        return self.pictures[index][0]

    def _listed(self, val_pictures: int | None) -> list[tuple[str, int]]:
        """All pictures of the split and their classes, the first ones of all classes first."""
        root = self.path / self.split
        if self.split == "val" and not root.is_dir() and not val_pictures:
            return []
        theirs = list_classes(root)
        if theirs != self.class_names:
            differ = sorted({*theirs} ^ {*self.class_names})
            raise UserError(
                f"The classes of {root} are not those of {self.path / 'train'}: only one of them "
                f"has {', '.join(differ[:8])}: both need a folder for each class"
            )
        ranked = []
        for label, folder in enumerate(theirs):
            files = sorted(list_pictures_below(root / folder))
            if not files:
                raise UserError(
                    f"No pictures ({' '.join(sorted(PICTURES))}) of class {folder} in "
                    f"{root / folder}: put some there, or take the folder out of every split"
                )
            ranked += [(rank, label, f"{folder}/{file}") for rank, file in enumerate(files)]
        return [(file, label) for _, label, file in sorted(ranked)]

    def _native_size(self) -> int:
        """The shorter side of the first picture: what dataset.image_size=null means."""
        if not self.pictures:
            return 0
        path = self.path / self.split / self.pictures[0][0]
        return min(decode_picture(path, str(path)).shape[:2])


def list_classes(root: Path) -> list[str]:
    """The folders in this one, sorted; hidden ones are left out."""
    if not root.is_dir():
        raise UserError(
            f"No folder {root} with a folder for each class: make it, or dataset.path=… names the "
            "folder that holds train/ and test/"
        )
    names = sorted(entry.name for entry in entries(root) if entry.is_dir())
    if not names:
        raise UserError(
            f"{root} holds no folders, and those are the classes: put each class's pictures in one"
        )
    return names


def list_pictures_below(folder: Path) -> Iterator[str]:
    """The paths of all pictures below the folder, relative to it; links are followed."""
    waiting: list[tuple[str, Mapping[str, str]]] = [("", {os.path.realpath(folder): "."})]
    while waiting:
        inside, above = waiting.pop()
        for entry in entries(folder / inside):
            if entry.is_dir():
                real, place = os.path.realpath(entry.path), f"{inside}{entry.name}/"
                if real in above:
                    raise UserError(
                        f"{entry.path} links to a folder that it lies in, {real}: take the link out"
                    )
                waiting.append((place, {**above, real: place}))
            elif os.path.splitext(entry.name)[1].lower() in PICTURES:
                yield f"{inside}{entry.name}"


def entries(folder: Path) -> Sequence[os.DirEntry]:
    """What lies in a folder and is not hidden."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"Cannot list {folder}: {error.strerror}. Make it readable, or take it out"
        ) from error
