"""Arrays of pictures in .npz files: classification sets, and drawn or sampled labelled sets."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8

from diffdict.data.archives.npz_file import Arrays, check_classes, open_arrays
from diffdict.data.archives.published import find_pictures
from diffdict.data.attributes import check_values
from diffdict.data.base import Pictures, PictureSample
from diffdict.data.pictures import (
    SPLITS,
    check_fit,
    check_labels,
    class_list,
    fingerprint,
    fit_facts,
    fit_mask,
    fit_picture,
    palette,
    read_classes,
    split_range,
    whole_numbers,
)
from diffdict.data.subsets.uncertainty_filter import keep_certain
from diffdict.errors import UserError

BESIDE_SAMPLES = "conditions.npz"  # what samples were drawn from: no pictures of the set


class NpzDataset(Pictures):
    """Pictures from path/<split>.npz, or from archives that the splits share in turn.

    Those are one .npz, or all below a folder, by name: shards of task=samples, or a published set.
    `max_data` takes the first so many of all (0: all). `filter` chooses among the training pictures
    by the uncertainty of their labels: see keep_certain.

    `labels` are masks or a class a picture, of `class_names`. Beside masks an array `label` is the
    class of each picture where `picture_classes` names the classes. `attributes` are pictures ×
    numbers, NaN where unknown; `attribute_names`, and if they say it `attribute_kinds` and
    `attribute_mirrors` ("" where nobody has said it), are as many words: see Attribute.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        picture_classes: Sequence[str] | None = None,
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
        resize: str = "bilinear",
    ):
        if path is None:
            raise UserError(f"{name} needs an .npz file or a folder of them: dataset.path=…")
        self.name, self.split, self.crop, self.path = name, split, crop, Path(path)
        self.resize = resize
        if not self.path.exists() and archive:
            self.path = find_pictures(name, self.path, archive, download)
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        files, shared = self._files(counts["val"])
        self.files = [open_arrays(file) for file in files]
        self._check_alike()
        check_fit(crop, resize, bool(self.files and self.files[0].masks))
        self.ends = np.cumsum([arrays.images.shape[0] for arrays in self.files])
        total = int(self.ends[-1]) if files else 0
        part = split_range(min(total, max_data or total), split, counts, name, shared)
        self.rows, self.taken = np.arange(part.start, part.stop), (part.start, part.stop)
        self.said = read_classes(self.path if self.path.is_dir() else self.path.parent)
        if class_names is None and not (self.files and self.files[0].masks):
            class_names = picture_classes  # of one kind, by either word
        self._name_classes(class_names, num_classes, ignore_label)
        self._name_picture_classes(picture_classes)
        self.attributes = self.files[0].described if self.files else ()
        self.image_size = image_size if image_size is not None else self._native_size()
        if filter is not None and split == "train":
            self.taken += (filter, filter_portion)
            uncertainty = self._required_uncertainty()
            self.rows = self.rows[keep_certain(uncertainty, filter, filter_portion, name)]

    @property
    def uncertainty(self) -> Float[np.ndarray, " pictures"] | None:
        """How unsure the labeller was of each picture, where the files say so."""
        members = [arrays.uncertainties for arrays in self.files]
        if not members or members[0] is None:
            return None
        return np.concatenate([member.map() for member in members if member.shape[0]])[self.rows]

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of the files, and with which pictures are taken at what size."""
        root = self.path if self.path.is_dir() else self.path.parent
        names = [str(arrays.path.relative_to(root)) for arrays in self.files]
        fit = fit_facts(self.image_size, self.crop, self.resize)
        return fingerprint(root, names, self.taken, *fit)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PictureSample:
        (arrays, row), name = self._place(index), self.picture_name(index)
        image = fit_picture(arrays.images[row], self.image_size, self.crop, name, self.resize)
        sample: PictureSample = {"image": image, "index": index}
        if arrays.masks is not None:
            mask = whole_numbers(arrays.masks[row], f"The label of {name}")
            check_labels(mask, self.num_classes, self.ignore_label, name)
            sample["mask"] = fit_mask(mask, self.image_size, self.crop, name)
        if self.picture_classes:
            sample["label"] = self._class(arrays.classes[row], name)
        if self.attributes:
            with np.errstate(over="ignore"):  # leaves infinity, which is refused
                values = torch.from_numpy(arrays.attributes[row].astype(np.float32))
            check_values(values, self.attributes, name)
            sample["attributes"] = values
        return sample

    def planes(self, indices: Sequence[int]) -> UInt8[np.ndarray, "pictures 3 _ _"] | None:
        """Several pictures at their own size, where all that comes with them is a class."""
        if self.labelled or self.attributes or set(self._sides()) - {self.image_size}:
            return None
        return self._rows("images", indices).transpose(0, 3, 1, 2)

    def labels(self, index: int) -> PictureSample:
        """What is known of a picture; it is opened for its mask or attributes alone."""
        if self.labelled or self.attributes:
            return super().labels(index)
        if not self.picture_classes:
            return {"index": index}
        arrays, row = self._place(index)
        return {"label": self._class(arrays.classes[row], self.picture_name(index)), "index": index}

    def labels_of(self, indices: Sequence[int]) -> PictureSample:
        """Several classes at once; of anything else one after the other."""
        if self.labelled or self.attributes or not self.picture_classes:
            return super().labels_of(indices)
        label = whole_numbers(self._rows("classes", indices), f"The labels of {self.name}")
        valid = (label >= 0) & (label < self.num_classes) | (label == self.ignore_label)
        if not valid.all():
            return super().labels_of(indices)  # which says of which picture
        return {
            "label": torch.from_numpy(label.astype(np.int64)),
            "index": torch.tensor(indices),
        }

    def picture_name(self, index: int) -> str:
        """The file and the picture's place in it."""
        arrays, row = self._place(index)
        return f"{arrays.path}[{row}]"

    def _class(self, stored: np.ndarray, name: str) -> int:
        """The class of a picture; of a set without masks it may be the ignored one."""
        label = whole_numbers(stored, f"The label of {name}")
        if not self.labelled:
            check_labels(label, self.num_classes, self.ignore_label, name)
        elif not 0 <= label < len(self.picture_classes):
            raise UserError(
                f"The class of {name} is {label}, its {len(self.picture_classes)} classes are 0 to "
                f"{len(self.picture_classes) - 1}: name them all in dataset.picture_classes"
            )
        return int(label)

    def _place(self, index: int) -> tuple[Arrays, int]:
        """The file of a picture, and its row there."""
        position = int(self.rows[index])
        file = int(np.searchsorted(self.ends, position, side="right"))
        return self.files[file], position - (int(self.ends[file - 1]) if file else 0)

    def _rows(self, kind: str, indices: Sequence[int]) -> Shaped[np.ndarray, "pictures *shape"]:
        """What the files hold of these pictures, each file opened once."""
        positions = self.rows[list(indices)]
        files = np.searchsorted(self.ends, positions, side="right")
        first = np.concatenate([[0], self.ends])
        parts = {}
        for file in np.unique(files):
            array = getattr(self.files[file], kind).map()
            parts[file] = iter(array[positions[files == file] - first[file]])
        return np.stack([next(parts[file]) for file in files])

    def _files(self, val_pictures: int | None) -> tuple[list[Path], bool]:
        """The files of this split, and whether all splits share them."""
        split_file, path = self.path / f"{self.split}.npz", self.path
        if path.is_file():
            return [path], True
        there = sorted(path.rglob("*.npz")) if path.is_dir() else []
        there = [file for file in there if file.name != BESIDE_SAMPLES]
        if there and not any((path / f"{split}.npz") in there for split in SPLITS):
            self._check_whole()
            return there, True
        if split_file in there:
            return [split_file], False
        if path.is_dir() and self.split == "val" and not val_pictures:
            return [], False
        raise UserError(
            f"No file {split_file if path.is_dir() else path} with the {self.split} pictures of "
            f"{self.name}{', only ' if there else ''}{' '.join(file.name for file in there)}: "
            "dataset.path=… names an .npz, a folder of shards, or one of "
            + " ".join(f"{split}.npz" for split in SPLITS)
        )

    def _check_whole(self) -> None:
        """Shards of task=samples are read when all of them are there."""
        marker = self.path / "samples.json"
        if not marker.is_file():
            return
        record = json.loads(marker.read_text())
        wanted = -(-record["number"] // record["shard_size"])
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
        """What the numbers in masks mean, or without masks those of `label`."""
        first = self.files[0] if self.files else Arrays(self.path)
        self.labelled = first.masks is not None
        names = names if names is not None else self.said.get("class_names")
        self.class_names = class_list(names, number, self.name) or []
        self.ignore_label = ignored if ignored is not None else self.said.get("ignore_label")
        if first.labels is not None and not self.class_names:
            raise UserError(
                f"{self.name} has labels, and nothing says how many classes: "
                "dataset.num_classes=…, or classes.json beside the .npz with classes and "
                "ignore_label"
            )
        counted = not self.files or self.labelled or first.classes is not None
        self.num_classes = len(self.class_names) if counted else 0
        self.palette = palette(len(self.class_names))

    def _name_picture_classes(self, names: Sequence[str] | None) -> None:
        """Those of a class a picture; where nobody names them beside masks, it is left unread."""
        self.picture_classes = []
        if not self.files or self.files[0].classes is None:
            if names is not None and self.files:
                raise UserError(
                    f"{self.files[0].path} has no array label with a class for each picture, of "
                    f"which dataset.picture_classes names {len(names)}: add it, or "
                    "dataset.picture_classes=null"
                )
            return
        if not self.labelled:
            self.picture_classes = self.class_names
        else:
            names = names if names is not None else self.said.get("picture_classes", ())
            self.picture_classes = list(names)
        for arrays in self.files if self.picture_classes else ():
            check_classes(arrays)

    def _sides(self) -> tuple[int, ...]:
        """Height and width of the pictures."""
        return self.files[0].images.shape[1:3] if self.files else ()

    def _native_size(self) -> int:
        """The shorter side of the pictures: what dataset.image_size=null means."""
        return min(self._sides(), default=0)

    def _required_uncertainty(self) -> Float[np.ndarray, " pictures"]:
        uncertainty = self.uncertainty
        if uncertainty is None:
            raise UserError(
                f"{self.files[0].path} holds no uncertainties (arr_2, or arr_3 where latents are "
                f"third), so {self.name} cannot be filtered by them: dataset.filter=null"
            )
        return uncertainty
