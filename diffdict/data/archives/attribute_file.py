"""Files of attributes: the published lists of faces, tables of LFW, and a user's attributes.csv."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from diffdict.data.attributes import OWN, Attribute, check_attributes
from diffdict.errors import UserError

EVERY = "*"  # in a table of mirrors: each that is not named
UNKNOWN = ("", "nan", "?")  # how a cell says that it is unknown
PictureKey = str | tuple[str, int]


class AttributeTable(NamedTuple):
    """The attributes of pictures by their names, as a file has them."""

    path: Path
    names: tuple[str, ...]
    rows: Mapping[PictureKey, int]  # by the picture's name
    values: Float32[np.ndarray, "rows names"]  # binary ones are 0 and 1; NaN where unknown
    binary: tuple[bool, ...]

    def attributes(self, mirrors: Mapping[str, str | None]) -> list[Attribute]:
        """What each is; `mirrors` says what a mirror makes of it, by name, or of all by *."""
        for name in mirrors:
            if name != EVERY and name not in self.names:
                raise UserError(
                    f"dataset.attribute_mirrors names {name}, which {self.path} does not hold: it "
                    f"has {', '.join(self.names[:8])}{' …' if len(self.names) > 8 else ''}, and * "
                    "stands for all others"
                )
        if mirrors.get(EVERY) not in OWN:
            raise UserError(
                f"dataset.attribute_mirrors says * becomes {mirrors[EVERY]!r}: same or negated"
            )
        attributes = [
            Attribute(name, "binary" if yes else "number", mirrors.get(name, mirrors.get(EVERY)))
            for name, yes in zip(self.names, self.binary, strict=True)
        ]
        check_attributes(attributes, str(self.path))
        return attributes

    def of(self, pictures: Sequence[PictureKey], owner: str) -> Float32[Tensor, "pictures names"]:
        """The rows of these pictures, matched by name."""
        missing = [name for name in pictures if name not in self.rows]
        if missing:
            raise UserError(
                f"{self.path} has {len(self.rows)} rows and none for {missing[0]}, one of "
                f"{len(missing)} pictures of {owner} that it leaves out: rows are matched by name, "
                f"as {next(iter(self.rows), 'x.jpg')}. Add them, or leave these pictures out"
            )
        return torch.from_numpy(self.values[[self.rows[name] for name in pictures]])


def read_list(path: str | Path, rename: Mapping[str, str] | None = None) -> AttributeTable:
    """CelebA's form: a count, the names, then a picture's name and a value each, -1 for no."""
    path = Path(path)
    names, rows, values, binary = _list(path, _time(path))
    if unknown := set(rename or {}) - set(names):
        raise UserError(
            f"{path} has no attribute {min(unknown)} to rename: its header is {' '.join(names)}"
        )
    names = tuple((rename or {}).get(name, name) for name in names)
    return AttributeTable(path, names, rows, values, binary)


@lru_cache(maxsize=8)
def _list(path: Path, time: int) -> tuple:
    """As the file has it, read once for all splits."""
    lines = [line for line in _text(path).splitlines() if line.strip()]
    form = "a count, the names of the attributes, then `000001.jpg -1 1 …` for each picture"
    if len(lines) < 3 or not lines[0].strip().isdigit():
        raise UserError(f"{path} is no list of attributes: it must hold {form}")
    names = tuple(lines[1].split())
    split = [line.split() for line in lines[2:]]
    wrong = next((i for i, cells in enumerate(split) if len(cells) != len(names) + 1), None)
    if wrong is not None:
        raise UserError(
            f"Line {wrong + 3} of {path} has {len(split[wrong]) - 1} values, its header "
            f"{len(names)} names: it must hold {form}"
        )
    if int(lines[0]) != len(split):
        raise UserError(
            f"{path} says {lines[0].strip()} pictures in its first line and has {len(split)} rows: "
            "fetch it again"
        )
    return (names, *_rows(path, names, [cells[0] for cells in split], [c[1:] for c in split]))


def read_csv(path: Path) -> AttributeTable:
    """A picture's name, then a column an attribute: only 0 and 1, or -1 and 1, make it binary."""
    lines = [row for row in csv.reader(io.StringIO(_text(path))) if any(map(str.strip, row))]
    if len(lines) < 2 or len(lines[0]) < 2:
        raise UserError(
            f"{path} must be CSV with a line of names, `name,glasses,yaw`, then one a picture"
        )
    names = tuple(cell.strip() for cell in lines[0][1:])
    wrong = next((row for row in lines[1:] if len(row) != len(lines[0])), None)
    if wrong is not None:
        raise UserError(
            f"The row of {wrong[0]} in {path} has {len(wrong) - 1} values, its header "
            f"{len(names)} names: give each picture as many, empty where unknown"
        )
    keys = [row[0].strip() for row in lines[1:]]
    content = _rows(path, names, keys, [[cell.strip() for cell in row[1:]] for row in lines[1:]])
    return AttributeTable(path, names, *content)


def read_lfw(path: Path) -> AttributeTable:
    """LFW's form: a title, `#`, person, imagenum and the names, then a row each, by tabs."""
    lines = [line for line in _text(path).splitlines() if line.strip()]
    head = lines[1].split("\t") if len(lines) > 2 else []
    if [cell.strip() for cell in head[:3]] != ["#", "person", "imagenum"]:
        raise UserError(
            f"{path} is no lfw_attributes.txt: its second line must be #, person, imagenum and the "
            "names of the attributes, apart by tabs"
        )
    names = tuple(cell.strip() for cell in head[3:])
    split = [line.split("\t") for line in lines[2:]]
    wrong = next((row for row in split if len(row) != len(names) + 2), None)
    if wrong is not None:
        raise UserError(
            f"The row of {wrong[0]} in {path} has {len(wrong) - 2} values, its header "
            f"{len(names)} names: fetch the file again"
        )
    keys = [(row[0].strip().replace(" ", "_"), int(row[1])) for row in split]
    _, values, _ = _rows(path, names, keys, [row[2:] for row in split], kinds=False)
    rows = {key: place for place, key in enumerate(keys)}
    return AttributeTable(path, names, rows, values, (False,) * len(names))


def _rows(
    path: Path,
    names: Sequence[str],
    keys: Sequence[PictureKey],
    cells: Sequence[Sequence[str]],
    kinds: bool = True,
) -> tuple[dict[PictureKey, int], np.ndarray, tuple[bool, ...]]:
    """Each picture's row, all values, and which attributes are binary."""
    rows = {key: place for place, key in enumerate(keys)}
    if len(rows) < len(keys):
        twice = next(key for place, key in enumerate(keys) if rows[key] != place)
        raise UserError(f"{path} has two rows for {twice}: take one out")
    values = np.empty((len(keys), len(names)), dtype=np.float32)
    for place, row in enumerate(cells):
        try:
            values[place] = row
        except ValueError:
            values[place] = [_number(cell, path, keys[place]) for cell in row]
    if not kinds:
        return rows, values, (False,) * len(names)
    binary = tuple(_binary(values[:, i], name, path) for i, name in enumerate(names))
    for i, yes in enumerate(binary):
        if yes:
            values[values[:, i] < 0, i] = 0
    return rows, values, binary


def _number(cell: str, path: Path, key: PictureKey) -> float:
    """A value, or that it is unknown."""
    if cell.lower() in UNKNOWN:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise UserError(
            f"{path} says {cell!r} of {key}: attributes are numbers, and empty where unknown"
        ) from None


def _binary(values: Float32[np.ndarray, " rows"], name: str, path: Path) -> bool:
    """Whether an attribute is one of two; both ways of saying it at once are refused."""
    levels = set(np.unique(values[~np.isnan(values)]).tolist())
    if levels == {-1.0, 0.0, 1.0}:
        raise UserError(
            f"{name} in {path} is -1, 0 and 1: a binary attribute is 0 and 1 or -1 and 1, empty "
            "where unknown; a number needs other values too"
        )
    return bool(levels) and (levels <= {0.0, 1.0} or levels <= {-1.0, 1.0})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a text of attributes ({error}): give the file as it was "
            "published"
        ) from error


def _time(path: Path) -> int:
    """When the file was last written; of a missing one nothing."""
    return path.stat().st_mtime_ns if path.is_file() else 0
