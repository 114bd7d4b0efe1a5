"""What one .npz file holds: pictures, their labels and their attributes, by name and checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffdict.data.archives.npz_arrays import Member, find_member, members
from diffdict.data.attributes import Attribute, check_attributes
from diffdict.errors import UserError

# images, labels, uncertainties: by name, as sampled (3 arrays), as GANs give them (latents third)
FORMS = (
    ("images", "labels", "uncertainties"),
    ("arr_0", "arr_1", "arr_3"),
    ("arr_0", "arr_1", "arr_2"),
)
# what is said of attributes, a word for each; the kind where it is left out is number
WORDS = ("attribute_names", "attribute_kinds", "attribute_mirrors")
MOST = 10_000  # attributes of one set


class Arrays(NamedTuple):
    """The arrays of one file."""

    path: Path
    images: Member | None = None  # uint8, pictures × height × width × 3
    labels: Member | None = None  # a mask a picture, or a class a picture
    uncertainties: Member | None = None  # one a picture
    label: Member | None = None  # a class a picture, beside masks or alone
    attributes: Member | None = None  # pictures × attributes
    described: tuple[Attribute, ...] = ()  # what each of those is

    @property
    def form(self) -> tuple[object, ...]:
        """What all files of a set have in common."""
        labels = None if self.labels is None else self.labels.shape[1:]
        alike = self.images.shape[1:], labels, self.uncertainties is not None
        return (*alike, *self.described)

    @property
    def masks(self) -> Member | None:
        """The labels where they are masks."""
        return None if self.labels is None or len(self.labels.shape) == 1 else self.labels

    @property
    def classes(self) -> Member | None:
        """The class of each picture, where the file holds it."""
        return self.label if self.labels is self.masks else self.labels


def open_arrays(path: Path) -> Arrays:
    """The images and labels of a file, under any of their names, checked."""
    names = members(path)
    form = next((form for form in FORMS if form[0] in names and form[2] in names), None)
    form = form or next((form for form in FORMS if form[0] in names), None)
    if form is None:
        raise UserError(
            f"{path} holds {' '.join(sorted(names)) or 'nothing'}, it needs images (and "
            "labels), or arr_0 (and arr_1 labels, arr_2 uncertainties)"
        )
    parts = [find_member(path, n) if n in names else None for n in (*form, "label", "attributes")]
    arrays = Arrays(path, *parts, read_attributes(path, names))
    _check(arrays)
    return arrays


def read_attributes(path: Path, names: set[str]) -> tuple[Attribute, ...]:
    """What the file says of its attributes, a word for each: name, kind, what a mirror does."""
    words = {key: _words(path, key) for key in WORDS if key in names}
    if ("attributes" in names) != (WORDS[0] in words):
        raise UserError(
            f"{path} must hold attributes and {WORDS[0]} together, it holds one of them: save the "
            "other beside it"
        )
    counts = {key: len(values) for key, values in words.items()}
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{count} {key}" for key, count in counts.items())
        raise UserError(f"{path} holds {lengths}: there must be one of each for every attribute")
    attribute_names = words.get(WORDS[0], [])
    kinds = words.get(WORDS[1], ["number"] * len(attribute_names))
    mirrors = words.get(WORDS[2], [""] * len(attribute_names))
    described = tuple(
        Attribute(name, kind, mirrored or None)
        for name, kind, mirrored in zip(attribute_names, kinds, mirrors, strict=True)
    )
    check_attributes(described, str(path))
    return described


def _words(path: Path, key: str) -> list[str]:
    member = find_member(path, key)
    if member.dtype.kind != "U" or len(member.shape) != 1 or member.shape[0] > MOST:
        raise UserError(
            f"{key} of {path} are {member.dtype} of shape {member.shape}, they must be a list of "
            f"at most {MOST} strings: save them so"
        )
    words = member.map().tolist() if member.shape[0] else []
    unprintable = next((word for word in words if not word.isprintable()), None)
    if unprintable is not None:
        raise UserError(f"{key} of {path} hold {unprintable!a}, which is no word: rename it")
    return words


def _check(arrays: Arrays) -> None:
    path, images = arrays.path, arrays.images
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[-1] != 3:
        raise UserError(
            f"The images of {path} are {images.dtype} of shape {images.shape}, they must be uint8, "
            "pictures × height × width × 3: save them so"
        )
    per_picture, per_pixel = images.shape[:1], images.shape[:3]
    values = (*per_picture, len(arrays.described))
    rule = f"whole numbers of shape {per_picture} (a class each) or {per_pixel} (masks)"
    _check_array(arrays, "labels", "iufb", (per_picture, per_pixel), rule)
    rule = f"floating-point numbers of shape {per_picture}, one a picture"
    _check_array(arrays, "uncertainties", "f", (per_picture,), rule)
    rule = f"numbers of shape {values}, pictures × attribute_names"
    _check_array(arrays, "attributes", "iufb", (values,), rule)


def check_classes(arrays: Arrays) -> None:
    """One class a picture. Nothing is said of an array `label` that nobody asks for."""
    shape = arrays.images.shape[:1]
    if arrays.classes is None:
        raise UserError(
            f"{arrays.path} has no array label, as others of its set: save it, of shape {shape}"
        )
    if arrays.classes is arrays.label:
        _check_array(arrays, "label", "iufb", (shape,), f"whole numbers of shape {shape}")


def _check_array(
    arrays: Arrays, name: str, kinds: str, shapes: Sequence[tuple[int, ...]], wanted: str
) -> None:
    """`kinds`: NumPy's letters for what its numbers may be."""
    member = getattr(arrays, name)
    if member is not None and (member.dtype.kind not in kinds or member.shape not in shapes):
        raise UserError(
            f"The {name} of {arrays.path} are {member.dtype} of shape {member.shape}, must be "
            f"{wanted}: save them so"
        )
