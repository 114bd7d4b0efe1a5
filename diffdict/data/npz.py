"""Arrays of pictures in .npz files: classification sets, and drawn or sampled labelled sets."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from diffdict.data.pictures import (
    SPLITS,
    cache_folder,
    check_labels,
    class_list,
    fingerprint,
    fit_mask,
    fit_picture,
    palette,
    read_classes,
    split_range,
)
from diffdict.errors import UserError
from diffdict.files import require_space, write_atomic

# images, labels, uncertainties: by name, as sampled (3 arrays), as GANs give them (latents third)
FORMS = (
    ("images", "labels", "uncertainties"),
    ("arr_0", "arr_1", "arr_3"),
    ("arr_0", "arr_1", "arr_2"),
)
BROKEN = (zipfile.BadZipFile, ValueError, OSError, EOFError)


class Arrays(NamedTuple):
    """The arrays of one file, mapped: nothing is read before a picture is asked for."""

    images: np.ndarray  # uint8, pictures × height × width × 3
    labels: np.ndarray | None  # a class a picture, or a mask a picture
    uncertainties: np.ndarray | None  # one a picture


def map_member(path: Path, name: str) -> np.ndarray:
    """One array of the archive: mapped where it lies, or decoded once into the cache folder.

    The cache is for compressed members; it is named by the file's path, size and time.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info) as member:
                shape, order, dtype = _header(member)
                inside = member.tell()
            with path.open("rb") as file:  # a local header ends with two lengths, then name, extra
                file.seek(info.header_offset + 26)
                lengths = np.frombuffer(file.read(4), dtype="<u2")
            start = info.header_offset + 30 + int(lengths.sum()) + inside
            return np.memmap(path, dtype, "r", start, shape, "F" if order else "C")
        seen = path.stat()
        key = xxhash.xxh3_128_hexdigest(
            f"{path.resolve()}\0{seen.st_size}\0{seen.st_mtime_ns}".encode()
        )
        decoded = cache_folder() / "npz" / f"{key}-{name}.npy"
        if not decoded.exists():
            require_space(decoded, info.file_size, f"{name} of {path}, decoded")
            with archive.open(info) as member:
                write_atomic(decoded, lambda file: _pour(member, file))
    return np.load(decoded, mmap_mode="r", allow_pickle=False)


def _header(member: zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, order, dtype = read[version](member)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not opened")
    return shape, order, dtype


def _pour(source: zipfile.ZipExtFile, target: object) -> None:
    for piece in iter(lambda: source.read(1 << 20), b""):
        target.write(piece)


class NpzDataset(Dataset):
    """Pictures from path/<split>.npz, or from one .npz that the splits share in turn."""

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
    ):
        if path is None:
            raise UserError(
                f"dataset={name} needs an .npz file or a folder of them: dataset.path=…"
            )
        self.name, self.split, self.crop, self.path = name, split, crop, Path(path)
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        shared = not self.path.is_dir()
        self.file = self.path if shared else self.path / f"{split}.npz"
        self._mapped: Arrays | None = None
        absent = not self.file.is_file()
        if absent and (shared or split != "val" or counts["val"]):
            there = sorted(file.name for file in self.path.glob("*.npz")) if not shared else []
            raise UserError(
                f"No file {self.file} with the {split} pictures of {name}"
                + (f", only {' '.join(there)}" if there else "")
                + ": dataset.path=… names an .npz, or a folder of "
                + " ".join(f"{split}.npz" for split in SPLITS)
            )
        total = 0 if absent else len(self.arrays.images)
        self.positions = split_range(total, split, counts, name, shared)
        labels = None if absent else self.arrays.labels
        self.labelled = labels is not None and labels.ndim == 3
        said = read_classes(self.path.parent if shared else self.path)
        names = class_names if class_names is not None else said.get("class_names")
        self.class_names = class_list(names, num_classes, name) or []
        self.ignore_label = ignore_label if ignore_label is not None else said.get("ignore_label")
        if labels is not None and not self.class_names:
            raise UserError(
                f"{name} has labels, and nothing says how many classes: dataset.num_classes=…, or "
                "classes.json beside the .npz with classes and ignore_label"
            )
        self.num_classes = len(self.class_names) if absent or labels is not None else 0
        self.palette = palette(len(self.class_names))
        native = 0 if absent else min(self.arrays.images.shape[1:3])
        self.image_size = image_size if image_size is not None else native

    @property
    def arrays(self) -> Arrays:
        """The mapped arrays; a process that gets a copy of this dataset maps its own."""
        if self._mapped is None:
            self._mapped = open_arrays(self.file)
        return self._mapped

    @property
    def uncertainty(self) -> Float[np.ndarray, " pictures"] | None:
        """How unsure the labeller was of each picture, where the file says so."""
        known = self.arrays.uncertainties
        return None if known is None else known[self.positions.start : self.positions.stop]

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of the file, and with which pictures are taken at what size."""
        taken = (self.positions.start, self.positions.stop)
        return fingerprint(self.file.parent, [self.file.name], taken, self.image_size, self.crop)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        position, name = self.positions[index], self.picture_name(index)
        pixels = np.asarray(self.arrays.images[position])
        image = fit_picture(pixels, self.image_size, self.crop, name)
        sample: dict[str, Tensor | int] = {"image": image, "index": index}
        if self.arrays.labels is None:
            return sample
        labels = np.asarray(self.arrays.labels[position])
        check_labels(labels, self.num_classes, self.ignore_label, name)
        if self.labelled:
            return sample | {"mask": fit_mask(labels, self.image_size, self.crop, name)}
        return sample | {"label": int(labels)}

    def picture_name(self, index: int) -> str:
        """The file and the picture's place in it."""
        return f"{self.file}[{self.positions[index]}]"

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_mapped": None}


def open_arrays(path: Path) -> Arrays:
    """The images, labels and uncertainties of a file, under either of their names, checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
        form = next((form for form in FORMS if form[0] in names and form[2] in names), None)
        form = form or next((form for form in FORMS if form[0] in names), None)
        if form is None:
            raise UserError(
                f"{path} holds {' '.join(sorted(names)) or 'nothing'}, it needs images (and "
                "labels), or arr_0 (and arr_1 labels, arr_2 uncertainties)"
            )
        images, *rest = (map_member(path, name) if name in names else None for name in form)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(
            f"{path} is no whole .npz file ({error}): fetch or write it again"
        ) from error
    _check(path, images, *rest)
    return Arrays(images, *rest)


def _check(
    path: Path, images: np.ndarray, labels: np.ndarray | None, uncertainties: np.ndarray | None
) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
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
    if uncertainties is not None and uncertainties.shape != shapes[0]:
        raise UserError(
            f"The uncertainties of {path} are of shape {uncertainties.shape}, they must be of "
            f"shape {shapes[0]}, one a picture: save them so"
        )
