"""Toy faces: portraits drawn on the fly with exact part masks, nothing to download."""

import hashlib

import torch
from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.data.faces.portrait import draw_face
from diffdict.data.faces.sketch import PARTS, Dice
from diffdict.data.faces.traits import TRAITS
from diffdict.data.pictures import SPLITS, check_split
from diffdict.errors import UserError

VERSION = 1  # of the drawing: any change of a pixel raises it


class ToyFaces(Pictures):
    """Faces by seed: picture i of a split is the same on every machine and for every count."""

    labelled, attributes = True, TRAITS

    def __init__(
        self,
        split: str = "train",
        name: str = "toy_faces",
        image_size: int = 64,
        seed: int = 0,
        train_pictures: int = 20,
        val_pictures: int = 20,
        test_pictures: int = 100,
    ):
        check_split("toy_faces", split)
        counts = dict(zip(SPLITS, (train_pictures, val_pictures, test_pictures), strict=True))
        if not 16 <= image_size <= 4096:
            raise UserError(f"toy_faces has dataset.image_size of 16 to 4096, got {image_size}")
        if not 0 <= seed < 2**32:
            raise UserError(f"toy_faces needs 0 <= dataset.seed < 2**32, got {seed}")
        if counts[split] < 0:
            raise UserError(f"dataset.{split}_pictures must not be negative, got {counts[split]}")
        self.split, self.name, self.image_size, self.seed = split, name, image_size, seed
        self.count = counts[split]
        self.class_names, self.palette = list(PARTS), list(PARTS.values())
        self.num_classes = len(PARTS)

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes a pixel or the number of pictures."""
        facts = f"toy_faces v{VERSION} {self.seed} {self.split} {self.image_size} {self.count}"
        return hashlib.sha256(facts.encode()).hexdigest()

    def picture_name(self, index: int) -> str:
        return f"{self.name}/{self.split}/{index:05d} (seed {self.seed})"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        if not -self.count <= index < self.count:
            raise IndexError(f"{self.name} ({self.split}) has {self.count} pictures, not {index}")
        index %= self.count
        dice = Dice(self.seed, SPLITS.index(self.split), index)
        picture, mask, traits = draw_face(dice, self.image_size)
        image = torch.from_numpy(picture).permute(2, 0, 1).float().div_(127.5).sub_(1)
        return {
            "image": image,
            "mask": torch.from_numpy(mask),
            "attributes": torch.from_numpy(traits),
            "index": index,
        }
