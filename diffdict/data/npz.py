"""Arrays of pictures in .npz files: classification sets, and drawn or sampled labelled sets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.data.certainty import keep_certain
from diffdict.data.members import Member, find_member, members
from diffdict.data.pictures import (
    SPLITS,
    check_labels,
    class_list,
    fingerprint,
    fit_mask,
    fit_picture,
    palette,
    read_classes,
    split_range,
)
from diffdict.data.published import fetch_pictures
from diffdict.errors import UserError

# images, labels, uncertainties: by name, as sampled (3 arrays), as GANs give them (latents third)
FORMS = (
    ("images", "labels", "uncertainties"),
    ("arr_0", "arr_1", "arr_3"),
    ("arr_0", "arr_1", "arr_2"),
)


class Arrays(NamedTuple):
    """The arrays of one file."""

    path: Path
    images: Member  # uint8, pictures × height × width × 3
    labels: Member | None  # a class a picture, or a mask a picture
    uncertainties: Member | None  # one a picture

    @property
    def form(self) -> tuple[object, ...]:
        """What all files of a set have in common."""
        labels = None if self.labels is None else self.labels.shape[1:]
        return self.images.shape[1:], labels, self.uncertainties is not None


class NpzDataset(Pictures):
    """Pictures from path/<split>.npz, or from archives that the splits share in turn.

    Those are one .npz, or all below a folder, by name: shards of task=samples, or a published set.
    `max_data` takes the first so many of all (0: all). `filter` chooses among the training pictures
    by the uncertainty of their labels: see keep_certain.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        ignore_label: int | None = None,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = None,
        filter: str | None = None,
        filter_portion: float = 0.1,
        max_data: int = 0,
        download: bool = False,
        archive: dict[str, str] | None = None,
    ):
        if path is None:
            raise UserError(
                f"dataset={name} needs an .npz file or a folder of them: dataset.path=…"
            )
        self.name, self.split, self.crop, self.path = name, split, crop, Path(path)
        if not self.path.exists() and archive:
            fetch_pictures(name, self.path, archive, download)
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        files, shared = self._files(counts["val"])
        self.files = [open_arrays(file) for file in files]
        self._check_alike()
        self.ends = np.cumsum([arrays.images.shape[0] for arrays in self.files])
        total = int(self.ends[-1]) if files else 0
        taken = split_range(min(total, max_data or total), split, counts, name, shared)
        self.rows, self.taken = np.arange(taken.start, taken.stop), (taken.start, taken.stop)
        self._name_classes(class_names, num_classes, ignore_label)
        self.image_size = image_size if image_size is not None else self._native_size()
        if filter is not None and split == "train":
            self.taken += (filter, filter_portion)
            known = self._required_uncertainty()
            self.rows = self.rows[keep_certain(known, filter, filter_portion, name)]

    @property
    def uncertainty(self) -> Float[np.ndarray, " pictures"] | None:
        """How unsure the labeller was of each picture, where the files say so."""
        known = [arrays.uncertainties for arrays in self.files]
        if not known or known[0] is None:
            return None
        return np.concatenate([member.map() for member in known if member.shape[0]])[self.rows]

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of the files, and with which pictures are taken at what size."""
        root = self.path if self.path.is_dir() else self.path.parent
        names = [str(arrays.path.relative_to(root)) for arrays in self.files]
        return fingerprint(root, names, self.taken, self.image_size, self.crop)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        (arrays, row), name = self._place(index), self.picture_name(index)
        image = fit_picture(arrays.images[row], self.image_size, self.crop, name)
        sample: dict[str, Tensor | int] = {"image": image, "index": index}
        if arrays.labels is None:
            return sample
        labels = arrays.labels[row]
        check_labels(labels, self.num_classes, self.ignore_label, name)
        if self.labelled:
            return sample | {"mask": fit_mask(labels, self.image_size, self.crop, name)}
        return sample | {"label": int(labels)}

    def picture_name(self, index: int) -> str:
        """The file and the picture's place in it."""
        arrays, row = self._place(index)
        return f"{arrays.path}[{row}]"

    def _place(self, index: int) -> tuple[Arrays, int]:
        """The file of a picture, and its row there."""
        position = int(self.rows[index])
        file = int(np.searchsorted(self.ends, position, side="right"))
        return self.files[file], position - (int(self.ends[file - 1]) if file else 0)

    def _files(self, val_pictures: int | None) -> tuple[list[Path], bool]:
        """The files of this split, and whether all splits share them."""
        own, path = self.path / f"{self.split}.npz", self.path
        if path.is_file():
            return [path], True
        there = sorted(path.rglob("*.npz")) if path.is_dir() else []
        if there and not any((path / f"{split}.npz") in there for split in SPLITS):
            self._check_whole()
            return there, True
        if own in there:
            return [own], False
        if path.is_dir() and self.split == "val" and not val_pictures:
            return [], False
        raise UserError(
            f"No file {own if path.is_dir() else path} with the {self.split} pictures of "
            f"{self.name}{', only ' if there else ''}{' '.join(file.name for file in there)}: "
            "dataset.path=… names an .npz, a folder of shards, or one of "
            + " ".join(f"{split}.npz" for split in SPLITS)
        )

    def _check_whole(self) -> None:
        """Shards of task=samples are read when all of them are there."""
        marker = self.path / "samples.json"
        if not marker.is_file():
            return
        known = json.loads(marker.read_text())
        wanted = -(-known["number"] // known["shard_size"])
        there = len(list(self.path.glob("samples_*.npz")))
        if there < wanted:
            raise UserError(
                f"{self.path} has {there} of its {wanted} shards: run the extract.py that makes "
                "them again, what is finished is kept"
            )

    def _check_alike(self) -> None:
        first = next(iter(self.files), None)
        other = next((arrays for arrays in self.files if arrays.form != first.form), None)
        if other is not None:
            raise UserError(
                f"{other.path} and {first.path} are no shards of one set: pictures, labels and "
                f"uncertainties of the one are {other.form}, of the other {first.form}. Keep each "
                "set in a folder of its own"
            )

    def _name_classes(
        self, names: Sequence[str] | None, number: int | None, ignored: int | None
    ) -> None:
        labels = self.files[0].labels if self.files else None
        self.labelled = labels is not None and len(labels.shape) == 3
        said = read_classes(self.path if self.path.is_dir() else self.path.parent)
        names = names if names is not None else said.get("class_names")
        self.class_names = class_list(names, number, self.name) or []
        self.ignore_label = ignored if ignored is not None else said.get("ignore_label")
        if labels is not None and not self.class_names:
            raise UserError(
                f"{self.name} has labels, and nothing says how many classes: "
                "dataset.num_classes=…, or classes.json beside the .npz with classes and "
                "ignore_label"
            )
        self.num_classes = len(self.class_names) if not self.files or labels is not None else 0
        self.palette = palette(len(self.class_names))

    def _native_size(self) -> int:
        """The shorter side of the pictures: what dataset.image_size=null means."""
        return min(self.files[0].images.shape[1:3]) if self.files else 0

    def _required_uncertainty(self) -> Float[np.ndarray, " pictures"]:
        known = self.uncertainty
        if known is None:
            raise UserError(
                f"{self.files[0].path} holds no uncertainties (arr_2, or arr_3 where latents are "
                f"third), so {self.name} cannot be filtered by them: dataset.filter=null"
            )
        return known


def open_arrays(path: Path) -> Arrays:
    """The images, labels and uncertainties of a file, under either of their names, checked."""
    names = members(path)
    form = next((form for form in FORMS if form[0] in names and form[2] in names), None)
    form = form or next((form for form in FORMS if form[0] in names), None)
    if form is None:
        raise UserError(
            f"{path} holds {' '.join(sorted(names)) or 'nothing'}, it needs images (and "
            "labels), or arr_0 (and arr_1 labels, arr_2 uncertainties)"
        )
    arrays = Arrays(path, *(find_member(path, n) if n in names else None for n in form))
    _check(arrays)
    return arrays


def _check(arrays: Arrays) -> None:
    path, images, labels, uncertainties = arrays
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[-1] != 3:
        raise UserError(
            f"The images of {path} are {images.dtype} of shape {images.shape}, they must be uint8, "
            "pictures × height × width × 3: save them so"
        )
    shapes = (images.shape[:1], images.shape[:3])
    if labels is not None and (
        not np.issubdtype(labels.dtype, np.integer) or labels.shape not in shapes
    ):
        raise UserError(
            f"The labels of {path} are {labels.dtype} of shape {labels.shape}, must be "
            f"integers of shape {shapes[0]} (a class each) or {shapes[1]} (masks): save them so"
        )
    if uncertainties is not None and (
        not np.issubdtype(uncertainties.dtype, np.floating) or uncertainties.shape != shapes[0]
    ):
        raise UserError(
            f"The uncertainties of {path} are {uncertainties.dtype} of shape "
            f"{uncertainties.shape}, must be floating-point numbers of shape {shapes[0]}, one a "
            "picture: save them so"
        )
