"""Pictures in an LMDB file under the keys of Diff-AE's sets: `{size}-{index}` and `length`."""

import hashlib
import importlib
import io
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from diffdict.data.archives.attribute_file import EVERY, read_list
from diffdict.data.attributes import check_attributes
from diffdict.data.base import Pictures
from diffdict.data.pictures import (
    SPLITS,
    check_fit,
    decode_picture,
    fingerprint,
    fit_facts,
    fit_picture,
    split_range,
)
from diffdict.errors import UserError, at_least

# py-lmdb opens a file once in a process, and a fork must not use its parent's: (process, handle)
_OPEN: dict[Path, tuple[int, object]] = {}


def lmdb_library() -> ModuleType:
    """The lmdb package, which is an extra."""
    try:
        return importlib.import_module("lmdb")
    except ImportError as error:
        raise UserError(
            "dataset=lmdb needs the lmdb package: pip install 'diffdict[lmdb]'"
        ) from error


def open_environment(path: Path) -> object:
    """This process's read-only handle of the file, without locks."""
    process, environment = _OPEN.get(path, (0, None))
    if process == os.getpid():
        return environment
    if environment is not None:
        environment.close()  # the copy that the fork brought; the parent keeps its own
    lmdb = lmdb_library()
    try:
        environment = lmdb.open(
            str(path),
            subdir=path.is_dir(),
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
        )
    except lmdb.Error as error:
        raise UserError(
            f"{path} cannot be opened as LMDB ({error}): dataset.path=… names a folder with "
            "data.mdb, or such a file, that you may read"
        ) from error
    _check_whole(path, environment)
    _OPEN[path] = (os.getpid(), environment)
    return environment


def _check_whole(path: Path, environment: object) -> None:
    """Refuses a file that was cut: reading beyond its end would end the process."""
    data = path / "data.mdb" if path.is_dir() else path
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if data.stat().st_size < needed:
        environment.close()
        raise UserError(
            f"{data} has {data.stat().st_size:,} bytes of the {needed:,} that it says: it was cut, "
            "fetch or copy it again"
        )


def ranged(ranges: Mapping[str, Sequence[int]], length: int, split: str, dataset: str) -> range:
    """The positions of a split, where each has a first and an end of its own."""
    bounds = {name: list(ends) for name, ends in ranges.items()}
    for name, ends in bounds.items():
        if name not in SPLITS or len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= length:
            raise UserError(
                f"dataset.ranges gives the first picture and the end of train, val and test, of "
                f"the {length} pictures of {dataset}, got {name}: {ends}: {{train: [0,{length}]}}"
            )
    ordered = sorted(ends for ends in bounds.values() if ends[0] < ends[1])
    for (_, end), (begin, _) in pairwise(ordered):
        if begin < end:
            raise UserError(
                f"dataset.ranges of {dataset} overlap: a split begins at {begin} and another ends "
                f"at {end}. No picture may be in two of them"
            )
    begin, end = bounds.get(split, (0, 0))
    if begin == end and split != "val":
        raise UserError(
            f"dataset.ranges of {dataset} says nothing of {split}: {split}: [first, end], or "
            "another split"
        )
    return range(begin, end)


def cut_window(
    pixels: UInt8[np.ndarray, "height width 3"], window: tuple[int, int, int], name: str
) -> UInt8[np.ndarray, "side side 3"]:
    """The square with this top, left and side."""
    top, left, side = window
    if top + side > pixels.shape[0] or left + side > pixels.shape[1]:
        raise UserError(
            f"{name} is {pixels.shape[1]}×{pixels.shape[0]}, and dataset.window ends at "
            f"{left + side}×{top + side}: dataset.window=null takes all of it"
        )
    return pixels[top : top + side, left : left + side]


def _checked_window(window: Mapping[str, int] | None) -> tuple[int, int, int] | None:
    if window is None:
        return None
    if set(window) != {"top", "left", "side"} or min(*window.values(), window["side"] - 1) < 0:
        raise UserError(
            f"dataset.window is top, left and side of a square, got {dict(window)}: "
            "{top: 57, left: 25, side: 128}"
        )
    return window["top"], window["left"], window["side"]


class LmdbDataset(Pictures):
    """Pictures; path/<split> where it exists, else the splits share path in turn, or by `ranges`.

    stored_size: the size in the keys where it is not image_size, "None" where that stands there.
    index_width: to so many digits the index is filled up. ranges: the first index and the end of
    each split. window: top, left and side of what is cut out before it is resized.
    attribute_files: lists in CelebA's form, by their names below path, whose rows are found by the
    picture's file name, which is picture_file of its index + first_picture. attribute_names renames
    what they hold; attribute_mirrors: see AttributeTable.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int = 256,
        stored_size: int | str | None = None,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = None,
        resize: str = "bilinear",
        index_width: int = 5,
        ranges: Mapping[str, Sequence[int]] | None = None,
        window: Mapping[str, int] | None = None,
        attribute_files: Sequence[str] | None = None,
        attribute_names: Mapping[str, str] | None = None,
        attribute_mirrors: Mapping[str, str] | None = None,
        picture_file: str = "{:06d}.jpg",
        first_picture: int = 0,
    ):
        if path is None:
            raise UserError(f"{name} needs an LMDB folder or file: dataset.path=…")
        base = Path(path)
        apart = (base / split).is_dir()
        self.path = (base / split if apart else base).absolute()
        data = self.path / "data.mdb" if self.path.is_dir() else self.path
        if not data.is_file():
            raise UserError(f"No LMDB at {self.path} ({data.name} is missing): dataset.path=…")
        check_fit(crop, resize)
        self.data, self.name, self.split = data, name, split
        self.crop, self.resize = crop, resize
        self.image_size, self.stored_size = image_size, stored_size or image_size
        at_least(1, "dataset", index_width=index_width)
        self.index_width, self.window = index_width, _checked_window(window)
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        length = self._length()
        if ranges is None:
            self.positions = split_range(length, split, counts, name, not apart)
        else:
            positions = ranged(ranges, length, split, name)
            part = split_range(len(positions), split, counts, name, shared=False)
            self.positions = positions[part.start : part.stop]
        if self.positions:
            self._bytes(0)
            self._bytes(len(self) - 1)
        beside = base if base.is_dir() else base.parent
        self.files = [beside / file for file in attribute_files or ()]
        self.file_name = picture_file, first_picture
        self._read_attributes(attribute_names or {}, attribute_mirrors or {})

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        name = self.picture_name(index)
        pixels = decode_picture(io.BytesIO(self._bytes(index)), name)
        if self.window is not None:
            pixels = cut_window(pixels, self.window, name)
        image = fit_picture(pixels, self.image_size, self.crop, name, self.resize)
        return {"image": image, **self.labels(index)}

    def labels(self, index: int) -> dict[str, Tensor | int]:
        """What the lists say of a picture, which is not opened."""
        labels = {"attributes": self.values[index].clone()} if self.attributes else {}
        return {"index": index, **labels}

    def picture_name(self, index: int) -> str:
        """The file and the picture's key in it."""
        return f"{self.path}[{self._key(index)}]"

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of the file, and with which pictures are taken at what size."""
        selection = (self.positions.start, self.positions.stop, self.stored_size)
        facts = [selection, *fit_facts(self.image_size, self.crop, self.resize)]
        if self.window is not None:
            facts.append(self.window)
        if self.attributes:
            attributes = [attribute._asdict() for attribute in self.attributes]
            facts.append((attributes, hashlib.sha256(self.values.numpy().tobytes()).hexdigest()))
        return fingerprint(self.data.parent, [self.data.name], *facts)

    def _key(self, index: int) -> str:
        return f"{self.stored_size}-{self.positions[index]:0{self.index_width}d}"

    def _read_attributes(self, names: Mapping[str, str], mirrors: Mapping[str, str]) -> None:
        """Those of all files, one after the other, for the pictures of this split."""
        word, first = self.file_name
        pictures = [word.format(position + first) for position in self.positions]
        attributes, values = [], []
        for path in self.files:
            if not path.is_file():
                raise UserError(
                    f"No file {path} with the attributes of {self.name}: it lies beside data.mdb "
                    "as published; dataset.attribute_files=null does without"
                )
            table = read_list(path)
            table = read_list(path, {old: names[old] for old in table.names if old in names})
            table_mirrors = {
                name: how for name, how in mirrors.items() if name in (EVERY, *table.names)
            }
            attributes += table.attributes(table_mirrors)
            values.append(table.of(pictures, self.name))
        check_attributes(attributes, self.name)
        valid_names = {EVERY, *(attribute.name for attribute in attributes)}
        if strange := sorted(set(mirrors) - valid_names):
            raise UserError(
                f"dataset.attribute_mirrors names {strange[0]}, which is no attribute of "
                f"{self.name}: leave it out, or give dataset.attribute_files"
            )
        self.attributes = attributes
        self.values = torch.cat(values, dim=1) if values else torch.zeros(len(pictures), 0)

    def _length(self) -> int:
        with open_environment(self.path).begin() as transaction:
            value = transaction.get(b"length")
            if value is None or not value.isdigit():
                first = next(iter(transaction.cursor().iternext(values=False)), b"")
                raise UserError(
                    f"{self.path} has no key 'length' with a number (its first key is "
                    f"{first[:40]!r}): the keys must be {{size}}-{{index:05d}} and length, as "
                    "Diff-AE's preparation writes them"
                )
            return int(value)

    def _bytes(self, index: int) -> bytes:
        key = self._key(index)
        with open_environment(self.path).begin() as transaction:
            value = transaction.get(key.encode())
            if value is None:
                first = next(iter(transaction.cursor().iternext(values=False)), b"")
                raise UserError(
                    f"{self.path} has no key {key} (its first key is {first[:40]!r}): "
                    "dataset.stored_size=… is the size in the keys, dataset.index_width=… how many "
                    "digits its number has; where one is missing in the middle, make the file again"
                )
            return value
