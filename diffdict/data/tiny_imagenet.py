"""Tiny-ImageNet-200 as published: 64-pixel pictures of 200 classes; its val/ is the test set."""

from pathlib import Path

from diffdict.data.archives.published import find_pictures
from diffdict.data.base import Pictures, PictureSample
from diffdict.data.class_folder import list_classes, list_pictures_below
from diffdict.data.pictures import (
    check_split,
    decode_picture,
    fingerprint,
    fit_picture,
    palette,
    split_range,
)
from diffdict.errors import UserError

SIDE = 64
NAMES, WORDS, ANNOTATIONS = "wnids.txt", "words.txt", "val_annotations.txt"


class TinyImageNet(Pictures):
    """train/WNID/images/… is train; val/, whose classes a table says, is test; there is no val.

    The classes are the WordNet ids, sorted. What its test/ holds has no classes, and is not used.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int | None = None,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        download: bool = False,
        archive: dict[str, str] | None = None,
    ):
        check_split(name, split)
        if path is None:
            raise UserError(f"{name} needs the folder with {NAMES}: dataset.path=…")
        self.name, self.split, self.path = name, split, Path(path)
        if not self.path.is_dir():
            self.path = find_pictures(name, self.path, archive, download)
        self.ids = sorted(self._lines(NAMES))
        words = dict(line.split("\t")[:2] for line in self._lines(WORDS) if "\t" in line)
        first = {key: text.partition(",")[0] for key, text in words.items()}
        self.class_names = self.picture_classes = [first.get(one, one) for one in self.ids]
        self.num_classes, self.palette = len(self.ids), palette(len(self.ids))
        listed = {"train": self._training, "val": list, "test": self._annotated}[split]()
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        places = split_range(len(listed), split, counts, name, shared=False)
        self.pictures = [listed[place] for place in places]
        self.image_size = SIDE if image_size is None else image_size

    @property
    def fingerprint(self) -> str:
        """Changes with any name, class or byte of these pictures, and with their size."""
        labels = [label for _, label in self.pictures]
        return fingerprint(self.path, [file for file, _ in self.pictures], labels, self.image_size)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> PictureSample:
        file, label = self.pictures[index]
        path = self.path / file
        image = fit_picture(decode_picture(path, str(path)), self.image_size, None, str(path))
        return {"image": image, "label": label, "index": index}

    def labels(self, index: int) -> PictureSample:
        """The class; no file is opened."""
        return {"label": self.pictures[index][1], "index": index}

    def picture_name(self, index: int) -> str:
        """The picture's path in the set's folder."""
        return self.pictures[index][0]

    def _lines(self, file: str) -> list[str]:
        """Those of a text file that comes with the set."""
        path = self.path / file
        if not path.is_file():
            raise UserError(
                f"{self.name} has no file {path}: dataset.path=… names the folder that "
                f"tiny-imagenet-200.zip unpacks to, with {NAMES}, train/ and val/"
            )
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]

    def _training(self) -> list[tuple[str, int]]:
        """All training pictures and their classes, the first ones of all classes first."""
        there = set(list_classes(self.path / "train"))
        if missing := [one for one in self.ids if one not in there]:
            raise UserError(
                f"{self.path / 'train'} has no folder {missing[0]}, which {NAMES} names: unpack "
                "the archive again"
            )
        ranked = []
        for label, one in enumerate(self.ids):
            files = sorted(list_pictures_below(self.path / "train" / one))
            ranked += [(rank, label, f"train/{one}/{file}") for rank, file in enumerate(files)]
        return [(file, label) for _, label, file in sorted(ranked)]

    def _annotated(self) -> list[tuple[str, int]]:
        """The pictures of val/ by name, and the classes that its table says."""
        table = self.path / "val" / ANNOTATIONS
        number = {one: label for label, one in enumerate(self.ids)}
        rows = [line.split("\t") for line in self._lines(f"val/{ANNOTATIONS}")]
        labels = {row[0]: row[1] for row in rows if len(row) > 1}
        pictures = []
        for file in sorted(list_pictures_below(self.path / "val" / "images")):
            if labels.get(file) not in number:
                raise UserError(
                    f"{table} names no class for {file} that {NAMES} has, got "
                    f"{labels.get(file, 'nothing')}: unpack the archive again, or take the "
                    "picture out"
                )
            pictures.append((f"val/images/{file}", number[labels[file]]))
        return pictures
