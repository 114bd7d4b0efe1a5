"""`dataset=celebamask_hq`: CelebAMask-HQ as published, a picture of every part of every face."""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.data.pictures import (
    check_fit,
    check_split,
    decode_picture,
    fingerprint,
    fit_facts,
    fit_mask,
    fit_picture,
    palette,
    split_range,
)
from diffdict.errors import UserError

PICTURES, PARTS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PER_FOLDER = 2000  # faces in each folder of parts
FIRST = {"train": 0, "val": 162_770, "test": 182_637}  # of CelebA's own splits, in its numbers
ORDER = (  # in which the authors paint parts over each other: class 1 first
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth"),
    *("u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)


class FaceParts(Pictures):
    """The faces of one split, by CelebA's own: 24,183, 2,993 and 2,824 of the 30,000.

    Classes are background and the authors' 18 parts, painted in the order of their own program; a
    part without a file is not in the picture.
    """

    labelled, num_classes = True, len(ORDER) + 1
    class_names = ("background", *ORDER)

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int = 256,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = None,
    ):
        check_split(name, split)
        for part in (PICTURES, PARTS, MAPPING):
            if path is None or not (Path(path) / part).exists():
                raise UserError(
                    f"No {part} of {name} in {path}: dataset.path=… names the unpacked folder "
                    "CelebAMask-HQ"
                )
        check_fit(crop, "bilinear", True)
        self.name, self.split, self.path = name, split, Path(path)
        self.image_size, self.crop = image_size, crop
        self.palette = palette(self.num_classes)
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        faces = self._faces()
        span = split_range(len(faces), split, counts, name, shared=False)
        self.faces = faces[span.start : span.stop]

    def _faces(self) -> list[int]:
        """Numbers in CelebA-HQ whose number in CelebA lies in the split."""
        first = FIRST[self.split]
        end = min((one for one in FIRST.values() if one > first), default=None)
        faces = []
        for line in (self.path / MAPPING).read_text(encoding="utf-8").splitlines():
            words = line.split()
            if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
                continue  # its head
            if int(words[1]) >= first and (end is None or int(words[1]) < end):
                faces.append(int(words[0]))
        return sorted(faces)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        path = self._picture(index)
        image = fit_picture(decode_picture(path, str(path)), self.image_size, self.crop, str(path))
        return {"image": image, "index": index, "mask": self._mask(index)}

    def labels(self, index: int) -> dict[str, Tensor | int]:
        """The mask; the picture's file is not opened."""
        return {"index": index, "mask": self._mask(index)}

    def picture_name(self, index: int) -> str:
        """Its file's name."""
        return f"{self.faces[index]}.jpg"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any name or byte of these pictures and parts, and with their size."""
        files = [self._picture(index) for index in range(len(self))]
        files += [file for index in range(len(self)) for _, file in self._parts(index)]
        names = [str(file.relative_to(self.path)) for file in files]
        return fingerprint(self.path, names, *fit_facts(self.image_size, self.crop, "bilinear"))

    def _picture(self, index: int) -> Path:
        return self.path / PICTURES / f"{self.faces[index]}.jpg"

    def _parts(self, index: int) -> list[tuple[int, Path]]:
        """Class and file of each part that there is, in the order of painting."""
        face = self.faces[index]
        folder = self.path / PARTS / str(face // PER_FOLDER)
        files = [(i, folder / f"{face:05d}_{part}.png") for i, part in enumerate(ORDER, 1)]
        return [(number, file) for number, file in files if file.is_file()]

    def _mask(self, index: int) -> Int64[Tensor, "side side"]:
        parts = self._parts(index)
        if not parts:
            raise UserError(
                f"{self._picture(index)} has no part in {self.path / PARTS}: unpack it again"
            )
        labels: np.ndarray | None = None
        for number, file in parts:
            part = _shown(file)
            labels = np.zeros(part.shape, np.int64) if labels is None else labels
            if part.shape != labels.shape:
                raise UserError(f"{file} is not of the size of the face's other parts: replace it")
            labels[part] = number
        return fit_mask(labels, self.image_size, self.crop, str(parts[0][1]))


def _shown(file: Path) -> np.ndarray:
    """Where a part is: what is not black."""
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L")) > 0
    except (OSError, ValueError) as error:
        raise UserError(f"The part {file} cannot be read ({error}): replace it") from error
