"""Synthetic labelled sets: sampled pictures to learn from, real ones to choose and to test with."""

from collections.abc import Callable
from pathlib import Path

from torch.utils.data import Dataset

from diffdict.data.npz import NpzDataset
from diffdict.data.pictures import read_classes
from diffdict.errors import UserError


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
    own = {} if image_size is None else {"image_size": image_size}
    if download and "download" in getattr(real, "keywords", {}):
        own["download"] = True  # of both
    known = real(split="train" if split == "val" else split, **own)
    if not known.labelled:
        raise UserError(f"{known.name} has no masks to test with: dataset/real=… names another set")
    if split != "train":
        known.name = name
        return known
    made = NpzDataset(
        name,
        path,
        split,
        image_size=known.image_size,
        class_names=known.class_names,
        ignore_label=known.ignore_label,
        filter=filter,
        filter_portion=filter_portion,
        max_data=max_data,
        download=download,
        archive=archive,
    )
    _check_classes(made, known)
    made.palette = known.palette
    return made


def _check_classes(made: NpzDataset, known: Dataset) -> None:
    if not made.labelled:
        raise UserError(
            f"{made.path} holds pictures without masks: python extract.py task=samples labeller=… "
            "makes both"
        )
    said = read_classes(Path(made.path)).get("class_names", known.class_names)
    if said != known.class_names:
        raise UserError(
            f"{made.path} was labelled with {len(said)} classes ({', '.join(said[:3])} …), "
            f"{known.name} has {len(known.class_names)} ({', '.join(known.class_names[:3])} …): "
            "dataset/real=… names the set that its labeller learned from"
        )
