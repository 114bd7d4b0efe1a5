"""Synthetic labelled sets: sampled pictures to learn from, real ones to choose and to test with."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from diffdict.data.base import Pictures
from diffdict.data.npz import NpzDataset
from diffdict.data.pictures import read_classes
from diffdict.errors import UserError

SHARED = ("image_size", "download")  # settings of the synthetic set that its real one takes too


class RealPictures(Pictures):
    """Real pictures under a synthetic set's name; what is wrong with them is said of dataset.real.*

    `real` is made for the split: training pictures where the synthetic set chooses by its val.
    """

    def __init__(self, name: str, real: Callable[..., Dataset], split: str, **rest: object) -> None:
        parameters = set(getattr(real, "keywords", {})) - {*SHARED}
        self.settings = "|".join(sorted(parameters)) or "$^"
        with self._below_real():
            self.pictures = real(split="train" if split == "val" else split, **rest)
        self.real_name, self.pictures.name = self.pictures.name, name
        for fact in ("name", "split", "image_size", "labelled", "num_classes", "class_names"):
            setattr(self, fact, getattr(self.pictures, fact))
        self.palette, self.ignore_label = self.pictures.palette, self.pictures.ignore_label

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        with self._below_real():
            return self.pictures[index]

    @property
    def fingerprint(self) -> str:
        """That of the pictures."""
        with self._below_real():
            return self.pictures.fingerprint

    def picture_name(self, index: int) -> str:
        """As the real set calls it."""
        return self.pictures.picture_name(index)

    @contextmanager
    def _below_real(self) -> Iterator[None]:
        """An error's `dataset.path` becomes the `dataset.real.path` that it means here."""
        try:
            yield
        except UserError as error:
            place = re.compile(rf"(?<![\w/.])dataset\.(?=(?:{self.settings})\b)")
            raise UserError(place.sub("dataset.real.", str(error))) from error


def synthetic_set(
    name: str,
    path: str,
    real: Callable[..., Dataset],
    split: str,
    image_size: int | None = None,
    filter: str | None = None,
    filter_portion: float = 0.1,
    max_data: int = 0,
    download: bool = False,
    archive: dict[str, str] | None = None,
) -> Dataset:
    """Split train: the pictures in `path`; val and test: training and test pictures of `real`.

    Size and classes are those of the real set; the other arguments are NpzDataset's.
    """
    options = {} if image_size is None else {"image_size": image_size}
    if download and "download" in getattr(real, "keywords", {}):
        options["download"] = True  # of both
    real_pictures = RealPictures(name, real, split, **options)
    if not real_pictures.labelled:
        raise UserError(
            f"{real_pictures.real_name} has no masks to test with: dataset/real=… names another set"
        )
    if split != "train":
        return real_pictures
    pictures = NpzDataset(
        name,
        path,
        split,
        image_size=real_pictures.image_size,
        class_names=real_pictures.class_names,
        ignore_label=real_pictures.ignore_label,
        filter=filter,
        filter_portion=filter_portion,
        max_data=max_data,
        download=download,
        archive=archive,
    )
    _check_classes(pictures, real_pictures)
    pictures.palette = real_pictures.palette
    return pictures


def _check_classes(train: NpzDataset, real: RealPictures) -> None:
    if not train.labelled:
        raise UserError(
            f"{train.path} holds pictures without masks: python extract.py task=samples labeller=… "
            "makes both"
        )
    ours = real.class_names
    classes = read_classes(Path(train.path)).get("class_names", ours)
    if classes != ours:
        raise UserError(
            f"{train.path} was labelled with {len(classes)} classes ({', '.join(classes[:3])} …), "
            f"{real.real_name} has {len(ours)} ({', '.join(ours[:3])} …): "
            "dataset/real=… names the set that its labeller learned from"
        )
