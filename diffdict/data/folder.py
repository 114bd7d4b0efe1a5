"""A folder of pictures, with masks beside them or without."""

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from diffdict.data.archives.attribute_file import read_csv
from diffdict.data.archives.published import find_pictures
from diffdict.data.base import Pictures
from diffdict.data.pictures import (
    SPLITS,
    check_fit,
    check_labels,
    class_list,
    decode_picture,
    fingerprint,
    fit_facts,
    fit_mask,
    fit_picture,
    palette,
    read_classes,
    read_mask,
    resize_labels,
    split_range,
)
from diffdict.errors import UserError

ATTRIBUTES = "attributes.csv"
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}


def list_files(folder: Path) -> list[str]:
    """Names of all files below the folder, relative to it; hidden ones are left out."""
    names, waiting = [], [""]
    while waiting:
        inside = waiting.pop()
        try:
            entries = list(os.scandir(folder / inside))
        except OSError as error:
            raise UserError(
                f"Cannot list {folder / inside}: {error.strerror}. Make it readable, or take it out"
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append(f"{inside}{entry.name}/")
            else:
                names.append(f"{inside}{entry.name}")
    return names


def list_pictures(files: Iterable[str]) -> list[str]:
    """Those of the files that are pictures and no other's mask, sorted by path."""
    stems = {
        name: name[: name.rindex(".")]
        for name in files
        if os.path.splitext(name)[1].lower() in PICTURES and not name.startswith("masks/")
    }
    all_stems = set(stems.values())
    return sorted(
        name
        for name, stem in stems.items()
        if not (stem.endswith("_mask") and stem.removesuffix("_mask") in all_stems)
    )


def mask_names(picture: str) -> list[str]:
    """Where the mask of this picture may stand, best first: beside it, or below masks/."""
    stem = os.path.splitext(picture)[0]
    parallel = stem.removeprefix("images/")
    return [
        f"{stem}.npy",
        f"{stem}_mask.png",
        f"{stem}_mask.npy",
        f"masks/{parallel}.png",
        f"masks/{parallel}.npy",
        f"masks/{parallel}_mask.png",
    ]


class FolderDataset(Pictures):
    """The pictures of one split, in the order of their paths.

    path: holds train/ and test/ (and val/), or real/train and real/test, or only pictures, which
    the splits then share in turn; `folders` says it where they are called otherwise. masks: true
    wants one for each picture, false reads none, null takes them where the folder has any.
    archive: url, size, licence, and the folder it unpacks to.
    order_seed: draws an order of the pictures, of which a split then takes the first.
    attributes.csv beside the pictures, or above train/ and test/, says what each shows, and
    attribute_mirrors what a mirror makes of that: see AttributeTable.
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
        order_seed: int | None = None,
        crop: str | None = None,
        masks: bool | None = None,
        folders: Mapping[str, str] | None = None,
        download: bool = False,
        archive: dict[str, str] | None = None,
        resize: str = "bilinear",
        attribute_mirrors: Mapping[str, str] | None = None,
    ):
        if path is None:
            raise UserError(f"{name} needs a folder of pictures: dataset.path=…")
        check_fit(crop, resize)
        self.name, self.split, self.crop, self.path = name, split, crop, Path(path)
        self.order_seed, self.folders, self.resize = order_seed, folders, resize
        if not self.path.is_dir():
            self.path = find_pictures(name, self.path, archive, download)
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        self.root, self.shared = self._split_folder()
        self._list(counts, masks)
        check_fit(crop, resize, self.labelled)
        listing = read_classes(self.path)
        names = class_names if class_names is not None else listing.get("class_names")
        self.class_names = class_list(names, num_classes, name) or []
        self.ignore_label = (
            ignore_label if ignore_label is not None else listing.get("ignore_label")
        )
        if self.labelled and not self.class_names:
            raise UserError(
                f"{name} has masks, and nothing says how many classes: dataset.num_classes=…, "
                f"or {self.path / 'classes.json'} with classes and ignore_label"
            )
        if not self.labelled:
            self.class_names = []
        self.num_classes = len(self.class_names)
        self.palette = palette(len(self.class_names))
        self.image_size = image_size if image_size is not None else self._native_size()
        self._read_attributes(attribute_mirrors or {})

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        picture, path = self.pictures[index], self.root / self.pictures[index]
        pixels = decode_picture(path, str(path))
        image = fit_picture(pixels, self.image_size, self.crop, str(path), self.resize)
        sample: dict[str, Tensor | int] = {"image": image, "index": index}
        if self.labelled:
            sample["mask"] = self._mask(self.masks[picture], path, pixels.shape[:2])
        if self.attributes:
            sample["attributes"] = self.values[index].clone()
        return sample

    def picture_name(self, index: int) -> str:
        """The picture's path below the split's folder."""
        return self.pictures[index]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any name, size or byte of these pictures and masks, or with their size."""
        files = [f"{self.root}/{name}" for name in self.pictures]
        files += [str(self.masks[name]) for name in self.pictures if self.labelled]
        if self.attributes:
            files.append(str(self.attribute_file))
        names = [file.removeprefix(f"{self.path}/") for file in files]
        fit = fit_facts(self.image_size, self.crop, self.resize)
        return fingerprint(self.path, names, *fit, self.num_classes)

    def _mask(self, path: Path, picture: Path, size: tuple[int, int]) -> Int64[Tensor, "side side"]:
        labels = read_mask(path)
        check_labels(labels, self.num_classes, self.ignore_label, f"The mask {path}")
        if labels.shape[0] * size[1] != labels.shape[1] * size[0]:
            raise UserError(
                f"The mask {path} is {labels.shape[1]}×{labels.shape[0]}, its picture {picture} is "
                f"{size[1]}×{size[0]}: they must be of one shape"
            )
        if self.crop is not None and labels.shape != size:  # what is cut away is of one size
            labels = resize_labels(labels, *size)
        return fit_mask(labels, self.image_size, self.crop, str(path))

    def _read_attributes(self, mirrors: Mapping[str, str]) -> None:
        """Of the file beside the pictures, by the path below it, or by the bare name."""
        places = [self.root / ATTRIBUTES, self.path / ATTRIBUTES]
        file = next((path for path in places if path.is_file()), None)
        if file is None:
            if mirrors:
                raise UserError(
                    f"dataset.attribute_mirrors is about attributes, and {self.name} has no "
                    f"{places[-1]}: add it, or leave this out"
                )
            return
        table = read_csv(file)
        self.attribute_file, self.attributes = file, table.attributes(mirrors)
        below = [os.path.relpath(self.root / name, file.parent) for name in self.pictures]
        keys = [
            name if name in table.rows or shared not in table.rows else shared
            for shared, name in zip(self.pictures, below, strict=True)
        ]
        self.values = table.of(keys, self.name)

    def _split_folder(self) -> tuple[Path, bool]:
        """The folder of this split, and whether all splits share it."""
        if self.folders is not None:
            return self.path / self.folders.get(self.split, self.split), False
        for base in (self.path, self.path / "real"):
            if any((base / split).is_dir() for split in SPLITS):
                return base / self.split, False
        return self.path, True

    def _list(self, counts: dict[str, int | None], masks: bool | None) -> None:
        """The pictures of this split and their masks."""
        if not self.root.is_dir():
            if self.split != "val" or counts["val"]:
                raise UserError(
                    f"{self.name} has no folder {self.root} for split {self.split}: make it, "
                    "or ask for another split"
                )
            self.pictures, self.masks, self.labelled = [], {}, bool(masks)
            return
        files = set(list_files(self.root))
        apart = self.path / "masks" / self.split  # masks/train/… beside train/…
        parallel = set(list_files(apart)) if not self.shared and apart.is_dir() else set()
        pictures = list_pictures(files)
        if not pictures:
            raise UserError(
                f"No pictures ({' '.join(sorted(PICTURES))}) in {self.root}: put some there, or "
                "name another folder by dataset.path=…"
            )
        if self.order_seed is not None:
            pictures.sort(key=self._drawn)
        chosen = split_range(len(pictures), self.split, counts, self.name, self.shared)
        here, there = files.difference(pictures), f"{apart}/"
        self.masks = {}
        for name in pictures if here or parallel else ():
            stem = os.path.splitext(name)[0]
            beside = [f"{self.root}/{mask}" for mask in mask_names(name) if mask in here]
            below = [
                f"{there}{stem}{end}" for end in (".png", ".npy") if f"{stem}{end}" in parallel
            ]
            if beside or below:
                self.masks[name] = Path((beside + below)[0])
        self.labelled = bool(self.masks) if masks is None else masks
        self.pictures = [pictures[position] for position in chosen]
        bare = next((name for name in self.pictures if name not in self.masks), None)
        if self.labelled and bare is not None:
            raise UserError(
                f"The picture {self.root / bare} has no mask beside it ({mask_names(bare)[0]}, "
                f"{mask_names(bare)[1]} or below masks/): add it, or dataset.masks=false"
            )

    def _drawn(self, name: str) -> bytes:
        """Where a picture stands in the drawn order, whatever other pictures there are."""
        return hashlib.sha256(f"{self.order_seed}/{name}".encode()).digest()

    def _native_size(self) -> int:
        """The shorter side of the first picture: what dataset.image_size=null means."""
        if not self.pictures:
            return 0
        path = self.root / self.pictures[0]
        return min(decode_picture(path, str(path)).shape[:2])
