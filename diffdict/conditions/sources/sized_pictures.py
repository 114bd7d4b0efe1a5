"""Pictures that a condition is made of, at any size: files, or those of a data set."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from diffdict.conditions.base import MakesVectors
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.features.one_picture import FITS, open_picture
from diffdict.representations.resnet import ResNetVector

RELEASED = ("supervised", "simclr", "barlow", "vicreg", "dino")  # what RCDMs were published for


class SizedPictures:
    """A split of a data set at any size, each opened once."""

    def __init__(self, dataset: Callable[..., Pictures] | None, split: str, setting: str) -> None:
        """`setting` names files instead, for messages."""
        self.dataset, self.split, self.setting = dataset, split, setting
        self._opened: dict[int | None, Pictures] = {}

    def at(self, side: int | None) -> Pictures:
        """Its pictures at this size; None: at their own."""
        if self.dataset is None:
            raise UserError(
                f"condition= needs pictures: {self.setting}=FILE or FOLDER, or dataset="
            )
        if side not in self._opened:
            pictures = self._opened.get(None) or self.dataset(split=self.split)
            self._opened[None] = pictures
            if side not in (None, pictures.image_size):
                pictures = self.dataset(split=self.split, image_size=side)
            self._opened[side] = pictures
        return self._opened[side]


class ChosenPicture:
    """A picture's file, or the number of a picture in a split."""

    def __init__(self, key: str, chosen: str | int | None, pictures: SizedPictures) -> None:
        """`key` is the setting that names it, for messages."""
        self.key, self.pictures, self.index, self.path = key, pictures, None, None
        if chosen is None:
            raise UserError(
                f"condition.{key} names a picture and is null: condition.{key}=a.png, or a number "
                f"of the data set's split, condition.{key}=0"
            )
        if type(chosen) is int:
            there = len(pictures.at(None))
            if not 0 <= chosen < there:
                raise UserError(
                    f"condition.{key}={chosen} is the number of a picture, {pictures.split} of "
                    f"{pictures.at(None).name} has 0 to {there - 1}: condition.{key}=0"
                )
            self.index = chosen
            return
        self.path = Path(str(chosen)).expanduser()
        if not self.path.is_file():
            raise UserError(
                f"condition.{key}={chosen} is no picture's file: name one, or a number of the data "
                f"set's split, condition.{key}=0"
            )

    @property
    def name(self) -> str:
        """The file's, or the data set's for it."""
        if self.path is not None:
            return self.path.name
        return self.pictures.at(None).picture_name(self.index)

    def image(self, side: int | None, fit: str) -> Float[Tensor, "3 side side"]:
        """In [-1, 1] at this size; a data set fits its own."""
        if self.path is not None:
            return open_picture(self.path, side, fit, strict=True)
        return self.pictures.at(side)[self.index]["image"]

    @property
    def fact(self) -> str:
        """What tells it from other pictures."""
        if self.path is not None:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        return f"{self.pictures.at(None).fingerprint} {self.index}"


def check_fit_word(fit: str | None) -> None:
    """How files become squares: one of the ways, or None for the published one."""
    if fit is not None and fit not in FITS:
        raise UserError(
            f"condition.fit is {', '.join(FITS)} or null, got {fit!r}: null is as published"
        )


def chosen_fit(fit: str | None, maker: MakesVectors, published: str) -> str:
    """What was asked for, else as published for a released encoder, else the middle square."""
    if fit is not None:
        return fit
    released = isinstance(maker, ResNetVector) and maker.kind in RELEASED
    return published if released else "center"
