"""`dataset=hf`: pictures of a data set on the Hugging Face hub, or of a folder of parquet files."""

import functools
import importlib
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import xxhash
from jaxtyping import Integer
from PIL import Image
from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.data.pictures import (
    check_fit,
    check_labels,
    check_split,
    class_list,
    decode_picture,
    fit_facts,
    fit_mask,
    fit_picture,
    palette,
    split_range,
)
from diffdict.errors import UserError, one_line

KINDS = ("image", "mask", "label")  # what a column may be


def datasets_library() -> ModuleType:
    """The datasets package, which is an extra."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            "dataset=hf needs the datasets package: pip install 'diffdict[datasets]'"
        ) from error


class HubPictures(Pictures):
    """The rows of one split, in their order; bytes stay as they came until a picture is asked for.

    `columns`: which column holds the picture, its mask, its class: {image: img, label: label}.
    `splits`: what train, val and test are called there. `stream`: only the first rows of the split
    are fetched, as many as <split>_pictures says, and held in memory; else datasets keeps the whole
    set in its cache, and maps it. Classes are named by the column's own names, or by `class_names`.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int = 256,
        columns: Mapping[str, str | None] | None = None,
        splits: Mapping[str, str] | None = None,
        subset: str | None = None,
        revision: str | None = None,
        stream: bool = False,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        ignore_label: int | None = None,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = None,
        resize: str = "bilinear",
    ):
        if path is None:
            raise UserError(
                f"{name} needs a data set: dataset.path=ORG/NAME on the hub, or a folder of "
                "parquet files"
            )
        check_split(name, split)
        self.name, self.split, self.path = name, split, path
        self.columns = _checked_columns(columns or {"image": "image"})
        self.labelled = "mask" in self.columns
        check_fit(crop, resize, self.labelled)
        self.image_size, self.crop, self.resize = image_size, crop, resize
        self.ignore_label = ignore_label
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        theirs = (splits or {}).get(split, split)
        self.rows = self._read(theirs, subset, revision, counts[split] if stream else None, stream)
        self._name_classes(class_names, num_classes)
        span = split_range(len(self.rows), split, counts, name, shared=False)
        self.positions = range(span.start, span.stop)

    def _read(
        self,
        split: str,
        subset: str | None,
        revision: str | None,
        first: int | None,
        stream: bool,
    ) -> Iterable[Mapping]:
        """The rows, with undecoded pictures."""
        library = datasets_library()
        if stream and first is None:
            raise UserError(
                "dataset.stream=true holds the first pictures of a split in memory: say how many "
                f"with dataset.{self.split}_pictures=500, or dataset.stream=false"
            )
        local = Path(self.path)
        if local.is_dir():
            files = {"data_files": {split: _parquet_files(local, split)}}
            where = {"path": "parquet", **files}
        else:
            where = {"path": self.path, "name": subset, "revision": revision}
        try:
            rows = library.load_dataset(**where, split=split, streaming=stream)
        except (OSError, ValueError, library.exceptions.DatasetsError) as error:
            raise UserError(
                f"dataset.path={self.path} cannot be read ({one_line(error)[:200]}): it is "
                "ORG/NAME on the hub, or a folder of parquet files; dataset.splits says what its "
                "splits are called"
            ) from error
        self.features = rows.features
        missing = [column for column in self.columns.values() if column not in self.features]
        if missing:
            raise UserError(
                f"{self.path} has no column {missing[0]!r}, it has {', '.join(self.features)}: "
                "dataset.columns={image: …, mask: …, label: …}"
            )
        rows = rows.select_columns(list(self.columns.values()))
        for kind in ("image", "mask"):
            if kind in self.columns:
                rows = rows.cast_column(self.columns[kind], library.Image(decode=False))
        return list(itertools.islice(rows, first)) if stream else rows

    def _name_classes(self, names: Sequence[str] | None, number: int | None) -> None:
        """Of masks, or of pictures where there are none."""
        label_names = None
        if "label" in self.columns:
            label_names = getattr(self.features[self.columns["label"]], "names", None)
            fallback = None if self.labelled else (names, number)
            class_names = label_names or (fallback and class_list(*fallback, self.name))
            if not class_names:
                raise UserError(
                    f"The column {self.columns['label']} of {self.path} does not name its classes: "
                    "dataset.num_classes=…, or leave label out of dataset.columns"
                )
            self.picture_classes = list(class_names)
        if self.labelled:
            class_names = class_list(names, number, self.name)
            if class_names is None:
                raise UserError(
                    f"The masks of {self.path} do not say how many classes there are: "
                    "dataset.num_classes=… or dataset.class_names=[…]"
                )
            self.class_names = class_names
        else:
            self.class_names = self.picture_classes
        self.num_classes, self.palette = len(self.class_names), palette(len(self.class_names))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        row, name = self.rows[self.positions[index]], self.picture_name(index)
        pixels = decode_picture(io.BytesIO(self._bytes(row, "image", name)), name)
        image = fit_picture(pixels, self.image_size, self.crop, name, self.resize)
        sample: dict[str, Tensor | int] = {"image": image, "index": index}
        if self.labelled:
            labels = _decoded_mask(self._bytes(row, "mask", name), f"The mask of {name}")
            check_labels(labels, self.num_classes, self.ignore_label, f"The mask of {name}")
            sample["mask"] = fit_mask(labels, self.image_size, self.crop, name)
        return sample | self._label(row)

    def _label(self, row: Mapping) -> dict[str, int]:
        return {"label": int(row[self.columns["label"]])} if "label" in self.columns else {}

    def picture_name(self, index: int) -> str:
        """The set, the split and the row."""
        return f"{self.path}/{self.split}[{self.positions[index]}]"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any byte of these pictures, masks and classes, and with their size."""
        digest = xxhash.xxh3_128()
        for index in range(len(self)):
            row = self.rows[self.positions[index]]
            for kind in ("image", "mask"):
                if kind in self.columns:
                    data = self._bytes(row, kind, self.picture_name(index))
                    digest.update(b"%d " % len(data) + data)
            digest.update(repr(self._label(row)).encode())
        fit = fit_facts(self.image_size, self.crop, self.resize)
        digest.update(repr((*fit, self.num_classes, list(self.picture_classes))).encode())
        return digest.hexdigest()

    def _bytes(self, row: Mapping, kind: str, name: str) -> bytes:
        """The file as it was put there."""
        held = row[self.columns[kind]]
        if not isinstance(held, Mapping) or held.get("bytes") is None:
            raise UserError(f"{name} has no {kind} in it: leave it out, or choose another column")
        return held["bytes"]


def _checked_columns(columns: Mapping[str, str | None]) -> dict[str, str]:
    """Kinds that there are, the picture among them."""
    if unknown := [kind for kind in columns if kind not in KINDS]:
        raise UserError(
            f"dataset.columns names what is {', '.join(KINDS)}, got {unknown[0]}: "
            "dataset.columns={image: image, label: label}"
        )
    if columns.get("image") is None:
        raise UserError(
            f"dataset.columns must name the picture's, got {dict(columns)}: "
            "dataset.columns={image: image}"
        )
    return {kind: column for kind, column in columns.items() if column is not None}


def _parquet_files(folder: Path, split: str) -> list[str]:
    """Those of a split: split.parquet, split-00000-of-00002.parquet, split/….parquet."""
    every = sorted(folder.rglob("*.parquet"))
    files = [
        file
        for file in every
        if split in (file.stem, file.stem.partition("-")[0], *file.relative_to(folder).parts[:-1])
    ]
    if not files:
        there = ", ".join(str(file.relative_to(folder)) for file in every[:4]) or "none"
        raise UserError(
            f"{folder} has no parquet file of split {split} ({split}.parquet, {split}-….parquet or "
            f"{split}/), it has {there}: dataset.splits={{test: validation}} says what it is called"
        )
    return [str(file) for file in files]


def _decoded_mask(data: bytes, name: str) -> Integer[np.ndarray, "height width"]:
    """Labels of a single-channel or palette picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            labels = np.asarray(image)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({one_line(error)}): replace it") from error
    if labels.ndim != 2:
        raise UserError(
            f"{name} has {labels.shape[2]} channels, it needs one: choose another column"
        )
    return labels
