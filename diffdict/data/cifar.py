"""CIFAR-10 and CIFAR-100 as published in binary: 32 × 32 pictures with a class each."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from diffdict.data.archives.published import find_pictures
from diffdict.data.base import Pictures, PictureSample
from diffdict.data.pictures import (
    check_split,
    fingerprint,
    fit_picture,
    palette,
    split_range,
)
from diffdict.errors import UserError

SIDE = 32
PIXELS = 3 * SIDE * SIDE  # of a record: the red, green and blue plane, row by row


class Layout(NamedTuple):
    """The files of one of the sets; a record is its label bytes and then the pixels."""

    files: dict[str, tuple[str, ...]]
    names: str  # the file of the classes' names, one a line
    labels: int  # bytes before the pixels, of which the last is the class

    @property
    def record(self) -> int:
        """Bytes of a picture."""
        return self.labels + PIXELS


LAYOUTS = {
    10: Layout(
        {
            "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        "batches.meta.txt",
        1,
    ),
    100: Layout({"train": ("train.bin",), "test": ("test.bin",)}, "fine_label_names.txt", 2),
}


class CifarDataset(Pictures):
    """The pictures of one split; there is none for val."""

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        classes: int = 10,
        image_size: int | None = None,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        download: bool = False,
        archive: dict[str, str] | None = None,
    ):
        """`classes` is 10 or 100: which of the two sets lies in `path`."""
        if classes not in LAYOUTS:
            raise UserError(f"CIFAR has 10 or 100 classes, got {classes}: dataset=cifar10")
        check_split(name, split)
        if path is None:
            raise UserError(f"{name} needs the folder of its .bin files: dataset.path=…")
        self.name, self.split, self.path, self.layout = name, split, Path(path), LAYOUTS[classes]
        if not self.path.is_dir():
            self.path = find_pictures(name, self.path, archive, download)
        self.class_names = self.picture_classes = self._names(classes)
        self.num_classes, self.palette = classes, palette(classes)
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        self.files = [self.path / file for file in self.layout.files.get(split, ())]
        records = [self._records(file) for file in self.files]
        self.ends = np.cumsum([len(each) for each in records])
        self.records = records
        total = int(self.ends[-1]) if records else 0
        self.count = len(split_range(total, split, counts, name, shared=False))
        self.image_size = SIDE if image_size is None else image_size

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of the files, and with how many pictures are taken at what size."""
        names = [file.name for file in self.files]
        return fingerprint(self.path, names, self.count, self.image_size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> PictureSample:
        file, row = self._place(index)
        record = self.records[file][row]
        planes = record[self.layout.labels :].reshape(3, SIDE, SIDE)
        image = fit_picture(planes.transpose(1, 2, 0), self.image_size, None, self.name)
        return {"image": image, "label": int(record[self.layout.labels - 1]), "index": index}

    def planes(self, indices: Sequence[int]) -> UInt8[np.ndarray, "pictures 3 32 32"] | None:
        """Several records at their own size."""
        if self.image_size != SIDE:
            return None
        return self._gathered(indices)[:, self.layout.labels :].reshape(-1, 3, SIDE, SIDE)

    def labels_of(self, indices: Sequence[int]) -> PictureSample:
        """The classes of several, without a record each."""
        labels = self._gathered(indices, slice(self.layout.labels - 1, self.layout.labels))[:, 0]
        return {"label": torch.from_numpy(labels.astype(np.int64)), "index": torch.tensor(indices)}

    def _gathered(
        self, indices: Sequence[int], columns: slice = slice(None)
    ) -> UInt8[np.ndarray, "pictures bytes"]:
        """These bytes of several records, a copy a file."""
        wanted = np.asarray(indices, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"{self.name} ({self.split}) has {self.count} pictures")
        of_file = np.searchsorted(self.ends, wanted, side="right")
        width = len(range(self.layout.record)[columns])
        gathered = np.empty((len(wanted), width), np.uint8)
        for file, records in enumerate(self.records):
            rows = np.nonzero(of_file == file)[0]
            first = int(self.ends[file - 1]) if file else 0
            gathered[rows] = records[wanted[rows] - first, columns]
        return gathered

    def labels(self, index: int) -> PictureSample:
        """The class, of whose record no pixel is read."""
        file, row = self._place(index)
        return {"label": int(self.records[file][row, self.layout.labels - 1]), "index": index}

    def picture_name(self, index: int) -> str:
        """The file and the picture's place in it."""
        file, row = self._place(index)
        return f"{self.files[file]}[{row}]"

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name} ({self.split}) has {self.count} pictures, not {index}")
        file = int(np.searchsorted(self.ends, index, side="right"))
        return file, index - (int(self.ends[file - 1]) if file else 0)

    def _names(self, classes: int) -> Sequence[str]:
        """Those of the file that comes with the pictures."""
        path = self.path / self.layout.names
        if not path.is_file():
            raise UserError(f"{self.path} has no {self.layout.names}: {self._instead(classes)}")
        names = path.read_text(errors="replace").split()
        if len(names) != classes:
            raise UserError(
                f"{path} names {len(names)} classes, {self.name} has {classes}: unpack the "
                "archive again, or dataset.path=… names another folder"
            )
        return names

    def _instead(self, classes: int) -> str:
        """What lies in a folder that is not this set's."""
        pickled = "data_batch_1" if classes == 10 else "train"
        if (self.path / pickled).is_file():
            return (
                f"{self.path / pickled} is of the archive for Python, a pickle, which is never "
                "opened: get the binary version, or dataset.download=true with no dataset.path="
            )
        for other, layout in LAYOUTS.items():
            if other != classes and (self.path / layout.names).is_file():
                return f"it is CIFAR-{other}: dataset=cifar{other}"
        return "dataset.path=… names the folder of the binary version's .bin files"

    def _records(self, path: Path) -> UInt8[np.ndarray, "pictures bytes"]:
        """The file's pictures where they lie on the disk, their classes checked."""
        if not path.is_file():
            raise UserError(
                f"{self.name} has no file {path}, one of {', '.join(f.name for f in self.files)}: "
                "unpack the archive again"
            )
        size, record = path.stat().st_size, self.layout.record
        if not size or size % record:
            raise UserError(
                f"{path} has {size} bytes, no whole number of records of {record}: it was cut, or "
                "is another set's; unpack the archive again"
            )
        records = np.memmap(path, np.uint8, mode="r").reshape(-1, record)
        labels = records[:, self.layout.labels - 1]
        if labels.max() >= self.num_classes:
            row = int((labels >= self.num_classes).argmax())
            raise UserError(
                f"Record {row} of {path} has class {labels[row]}, and there are 0 to "
                f"{self.num_classes - 1}: unpack the archive again"
            )
        return records
