"""Labelled Faces in the Wild: funneled pictures by person, with 73 numbers each (PubFig)."""

from pathlib import Path

from torch import Tensor

from diffdict.data.archives.attribute_file import AttributeTable, read_lfw
from diffdict.data.base import Pictures
from diffdict.data.pictures import SPLITS, decode_picture, fingerprint, fit_picture
from diffdict.errors import UserError

PEOPLE = {"train": "peopleDevTrain.txt", "val": "peopleDevTrain.txt", "test": "peopleDevTest.txt"}
FILES = "http://vis-www.cs.umass.edu/lfw/"
ATTRIBUTES = "http://www.cs.columbia.edu/CAVE/databases/pubfig/download/lfw_attributes.txt"
ENLARGED = 1.1  # the middle is cut out of a picture so much larger


class LfwDataset(Pictures):
    """View 1 of LFW: its people for development, in the published files' order.

    There is no validation: every `val_people`-th person of train is held out. Pictures without a
    row of attributes, some 90, are left out.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int = 64,
        val_people: int | None = 10,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
    ) -> None:
        if path is None:
            raise UserError(f"{name} needs the folder of lfw_funneled/: dataset.path=…")
        if val_people is not None and val_people < 2:
            raise UserError(
                f"dataset.val_people holds out every so many-th person of train, 2 or more, got "
                f"{val_people}: 10 holds out a tenth, null nobody"
            )
        self.name, self.split, self.image_size, self.path = name, split, image_size, Path(path)
        counts = dict(zip(SPLITS, (train_pictures, val_pictures, test_pictures), strict=True))
        table = self._table()
        every = self._listed(self._people(val_people))
        with_attributes = [picture for picture in every if picture in table.rows]
        self.pictures = with_attributes[: counts[split]]
        if split != "val" and not self.pictures:
            raise UserError(
                f"No picture of {name} for {split} has a row in {table.path}: its persons must be "
                f"those of {PEOPLE[split]}"
            )
        self.attributes = table.attributes({"*": "same"})
        self.values = table.of(self.pictures, name)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        path = self.path / self.picture_name(index)
        larger, side = int(ENLARGED * self.image_size), self.image_size
        image = fit_picture(decode_picture(path, str(path)), larger, None, str(path))
        start = round((larger - side) / 2)
        window = image[:, start : start + side, start : start + side].contiguous()
        return {"image": window, **self.labels(index)}

    def labels(self, index: int) -> dict[str, Tensor | int]:
        """What the file of attributes says of a picture, which is not opened."""
        return {"attributes": self.values[index].clone(), "index": index}

    def picture_name(self, index: int) -> str:
        """The picture's path below the set's folder."""
        person, number = self.pictures[index]
        return f"lfw_funneled/{person}/{person}_{number:04d}.jpg"

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of these pictures and of the attributes, and with their size."""
        names = [self.picture_name(index) for index in range(len(self))]
        return fingerprint(self.path, [*names, "lfw_attributes.txt"], self.split, self.image_size)

    def _table(self) -> AttributeTable:
        path = self.path / "lfw_attributes.txt"
        if not path.is_file():
            raise UserError(
                f"No attributes of {self.name} at {path}: they are at {ATTRIBUTES}, to be put there"
            )
        return read_lfw(path)

    def _people(self, val_people: int | None) -> list[tuple[str, int]]:
        """Each person of the split, and how many pictures there are."""
        path = self.path / PEOPLE[self.split]
        if not path.is_file():
            raise UserError(
                f"No file {path} with the people of {self.name}: {FILES}{path.name} goes there, "
                "beside lfw_funneled/"
            )
        lines = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
        people = [(cells[0], int(cells[1])) for cells in lines[1:] if _person(cells)]
        if not lines or lines[0] != [str(len(lines) - 1)] or len(people) < len(lines) - 1:
            raise UserError(
                f"{path} must hold a count, then NAME and a number of pictures a line, apart by a "
                f"tab: fetch it again from {FILES}{path.name}"
            )
        if self.split == "test":
            return people
        last_people = range(len(people) - 1, -1, -val_people) if val_people else ()
        wanted = (
            set(last_people)
            if self.split == "val"
            else set(range(len(people))).difference(last_people)
        )
        return [person for place, person in enumerate(people) if place in wanted]

    def _listed(self, people: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Every picture of these people, if they are there."""
        for person, count in people:
            folder = self.path / "lfw_funneled" / person
            if not (folder / f"{person}_{count:04d}.jpg").is_file():
                raise UserError(
                    f"{folder} has no picture {count} of {person}, whom {PEOPLE[self.split]} "
                    f"names: unpack {FILES}lfw-funneled.tgz in {self.path}"
                )
        return [(person, i) for person, count in people for i in range(1, count + 1)]


def _person(cells: list[str]) -> bool:
    """Whether a line names a person and a number of pictures."""
    return len(cells) == 2 and cells[1].strip().isdigit()
