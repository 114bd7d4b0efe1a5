"""`condition=pictures`: the vectors of pictures, of a data set or of files."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.conditions.base import (
    BATCH,
    ConditionRows,
    ConditionSource,
    MakesVectors,
    check_maker,
    check_vectors,
    picture_vectors,
    plain_rows,
)
from diffdict.conditions.sources.sized_pictures import SizedPictures, check_fit_word, chosen_fit
from diffdict.data.base import Pictures
from diffdict.data.folder import list_files, list_pictures
from diffdict.errors import UserError, at_least
from diffdict.features.one_picture import open_picture


class PictureVectors(ConditionSource):
    """Each picture's vector, `each` times in turn, so that its samples differ by their noise."""

    def __init__(
        self,
        dataset: Callable[..., Pictures] | None = None,
        split: str = "test",
        path: str | None = None,
        number: int | None = 8,
        each: int = 8,
        side: int | None = None,
        undirected: float | int = 0.0,
        fit: str | None = None,
    ) -> None:
        """`path`: a picture, or a folder of pictures; None: pictures of the data set's split.

        `number`: the first so many; None: all. `side` of pictures that lie in files, and `fit` how
        they become squares; None: as published for a released encoder, else the middle.
        """
        at_least(1, "condition", each=each, number=number)
        check_fit_word(fit)
        self.opened = SizedPictures(dataset, split, "condition.path")
        self.side, self.fit = side, fit
        self.path = None if path is None else Path(path).expanduser()
        self.each, self.undirected = each, undirected
        self.check_share()
        self.files = None if self.path is None else _files(self.path)
        there = len(self.files) if self.files is not None else len(self.opened.at(None))
        if number is not None and number > there:
            where = self.path or f"split {split} of {self.opened.at(None).name}"
            raise UserError(
                f"condition.number={number} pictures are asked for, {where} has {there}: "
                f"condition.number={there}, or null for all"
            )
        self.count = there if number is None else number
        self.number = self.count * each

    def keep_first(self, most: int | None) -> None:
        """No more pictures than these; None: all."""
        self.count = self.count if most is None else min(self.count, most)
        self.number = self.count * self.each

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """Row i is of picture i // each."""
        maker = check_maker(maker)
        vectors, names = self.vectors(maker, width, device), self.names()
        shown = torch.stack([self.image(index, self.side, maker) for index in range(self.count)])
        source = torch.arange(self.count).repeat_interleave(self.each)
        captions = [names[i] for i in source.tolist()]
        return plain_rows(vectors[source], captions, source.tolist(), shown)

    def vectors(
        self, maker: MakesVectors, width: int, device: torch.device
    ) -> Float[Tensor, "pictures width"]:
        """One of each picture, a few pictures at a time."""
        side = maker.image_size or self.side
        blocks = [range(at, min(at + BATCH, self.count)) for at in range(0, self.count, BATCH)]
        vectors = torch.cat(
            [
                picture_vectors(maker, [self.image(index, side, maker) for index in block], device)
                for block in blocks
            ]
        )
        check_vectors(vectors, width, self.names(), f"by {maker.name}", "The network")
        return vectors

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """The pictures and the network that looks at them."""
        maker = check_maker(maker)
        fit = "center" if self.files is None else chosen_fit(self.fit, maker, "guided")
        return {
            "condition": "pictures",
            "pictures": self.fingerprint,
            "of": self.count,
            "each": self.each,
            "undirected": self.undirected,
            "vectors_by": maker.name,
            "vectors_sha256": maker.sha256,
            **({} if fit == "center" else {"fit": fit}),
        }

    @property
    def fingerprint(self) -> str:
        """Of the data set, or of the files' bytes."""
        if self.files is None:
            return self.opened.at(self.side).fingerprint
        return _digest(self.files)

    def image(
        self, index: int, side: int | None, maker: MakesVectors
    ) -> Float[Tensor, "3 side side"]:
        """A picture in [-1, 1] at this size."""
        if self.files is not None:
            fit = chosen_fit(self.fit, maker, "guided")
            return open_picture(self.files[index], side, fit, strict=True)
        return self.opened.at(side)[index]["image"]

    def names(self) -> Sequence[str]:
        """What each picture is called."""
        if self.files is not None:
            return [path.name for path in self.files[: self.count]]
        pictures = self.opened.at(self.side)
        return [pictures.picture_name(index) for index in range(self.count)]


def _files(path: Path) -> list[Path]:
    """A picture, or all pictures of a folder, in the order of their paths."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(
            f"condition.path={path} is neither a picture nor a folder of pictures: name one, or "
            "null for those of the data set"
        )
    paths = [path / name for name in list_pictures(list_files(path))]
    if not paths:
        raise UserError(f"condition.path={path} holds no pictures: name a folder that does")
    return paths


def _digest(paths: Sequence[Path]) -> str:
    """Of the bytes of these files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
