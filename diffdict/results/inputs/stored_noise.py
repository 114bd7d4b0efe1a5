"""Noise that `task=invert` has stored: its facts, read and checked, and its rows by index.

A folder holds `noise.json`, which says what made it, and shards `noise_000000-000063.npz`.
"""

import hashlib
import json
import lzma
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.lib.npyio import NpzFile
from torch import Tensor

from diffdict import files
from diffdict.errors import UserError

RECORD = "noise.json"
BROKEN = (  # what zipfile and numpy say of a file that is none of theirs, or is no more
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, OSError, EOFError),
    *(ValueError, TypeError, OverflowError, MemoryError),
)
FACTS = {  # what is read of the record, and what it must be
    **dict.fromkeys(("number", "shard_size", "image_size", "steps", "timestep"), int),
    **dict.fromkeys(("backbone", "sha256", "dataset", "split", "respacing"), str),
    "clip_denoised": bool,
}


def shard_name(pictures: range) -> str:
    """The file of a range of pictures."""
    return f"noise_{pictures.start:06d}-{pictures.stop - 1:06d}.npz"


class StoredNoise:
    """A folder of inverted pictures, opened by its record; shards are read when rows are asked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.facts = read_record(self.path)
        self.number, self.shard_size = self.facts["number"], self.facts["shard_size"]
        self.image_size, self.timestep = self.facts["image_size"], self.facts["timestep"]
        self._last: tuple[Path, dict[str, np.ndarray]] | None = None

    @property
    def fingerprint(self) -> str:
        """Changes with whatever made the noise."""
        return hashlib.sha256(files.json_text(self.facts, sort_keys=True).encode()).hexdigest()

    @property
    def shards(self) -> list[range]:
        """The pictures of each file."""
        return [self.shard_of(start) for start in range(0, self.number, self.shard_size)]

    def shard_of(self, index: int) -> range:
        """The pictures that lie in one file with this one."""
        start = index - index % self.shard_size
        return range(start, min(start + self.shard_size, self.number))

    def check_whole(self, number: int | None = None) -> None:
        """All shards of the first so many pictures, or a sentence about what is missing."""
        wanted = self.number if number is None else number
        if wanted > self.number:
            raise UserError(
                f"start={self.path} holds the noise of {self.number} pictures, and {wanted} are "
                f"asked for: data.number={self.number} at most"
            )
        shards = -(-wanted // self.shard_size)
        present = set(self.path.glob("noise_*.npz"))
        if len(present) >= shards:  # else a record that was edited would ask for any number
            starts = range(0, wanted, self.shard_size)
            present &= {self.path / shard_name(self.shard_of(start)) for start in starts}
        if len(present) < shards:
            raise UserError(
                f"{self.path} has {len(present)} of its {shards} shards: run the extract.py "
                "task=invert that makes them again, what is finished is kept"
            )
        for path in sorted(present):  # what was cut off has lost the list of arrays at its end
            read_arrays(path, ())

    def check_network(self, name: str, sha256: str, image_size: int) -> None:
        """Only the network that a picture was inverted by finds the way back to it."""
        if image_size != self.image_size:
            raise UserError(
                f"start={self.path} is noise of {self.image_size}×{self.image_size}, {name} draws "
                f"{image_size}×{image_size}: backbone.image_size={self.image_size}, or noise of "
                "its own by task=invert"
            )
        if sha256 != self.facts["sha256"]:
            raise UserError(
                f"start={self.path} was inverted by {self.facts['backbone']} with other weights "
                f"({self.facts['sha256'][:12]}) than {name} has ({sha256[:12]}): choose that "
                "backbone and its backbone.checkpoint=, or invert by this one with task=invert"
            )

    def check_timestep(self, timestep: int, respacing: str) -> None:
        """A chain that begins elsewhere would take it for more or less noise than it is."""
        if timestep != self.timestep:
            raise UserError(
                f"start={self.path} is noise of timestep {self.timestep}, sampler.respacing="
                f"{respacing or repr('')} begins at {timestep}: sampler.respacing="
                f"{self.facts['respacing'] or repr('')}"
            )

    def noise(self, indices: Sequence[int]) -> Float[Tensor, "n 3 size size"]:
        """The noise of these pictures."""
        return torch.from_numpy(self._rows("noise", indices))

    def labels(self, indices: Sequence[int]) -> Int[Tensor, " n"]:
        """The classes that a class-conditional network was told with these pictures."""
        return torch.from_numpy(self._rows("label", indices))

    def _rows(self, array: str, indices: Sequence[int]) -> Shaped[np.ndarray, "n *shape"]:
        rows = []
        for index in indices:
            shard = self.shard_of(index)
            rows.append(self.read(shard, (array,))[array][index - shard.start])
        return np.stack(rows)

    def read(self, shard: range, wanted: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
        """These arrays of a shard; those of the last shard that was asked for stay in memory."""
        path = self.path / shard_name(shard)
        if self._last is None or self._last[0] != path:
            self._last = (path, {})
        arrays = self._last[1]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            arrays.update(read_shard(path, missing, len(shard), self.image_size))
        return {name: arrays[name] for name in wanted}


def read_record(path: Path) -> dict[str, object]:
    """What `noise.json` in the folder says, as it was written."""
    record = path / RECORD
    try:
        facts = json.loads(record.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} holds no {RECORD}: name a folder that python extract.py task=invert has "
            "written"
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{record} cannot be read ({error}): delete the folder and invert again"
        ) from error
    values = facts if isinstance(facts, Mapping) else {}
    wrong = next((key for key, kind in FACTS.items() if type(values.get(key)) is not kind), None)
    if wrong is None and (facts["number"] < 1 or facts["shard_size"] < 1):
        wrong = "number"
    if wrong is not None:
        raise UserError(
            f"{record} was edited or damaged ({wrong} is {values.get(wrong)!r}): delete the folder "
            "and invert again"
        )
    return facts


def read_shard(
    path: Path, names: Sequence[str], pictures: int, size: int
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Arrays of one file: a row a picture, and the noise in its size."""
    arrays = read_arrays(path, names)
    for name, rows in arrays.items():
        if not rows.shape or len(rows) != pictures or not _as_written(name, rows, size):
            raise _broken(path, f"{name} is {rows.dtype} of shape {list(rows.shape)}")
    return arrays


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """These arrays of an .npz file against its checksums; nothing unpickles."""
    try:
        with NpzFile(path, allow_pickle=False) as file:
            missing = set(names) - set(file.files)
            arrays = {name: np.asarray(file[name]) for name in names if name not in missing}
    except BROKEN as error:
        raise _broken(path, error) from error
    if missing:
        raise _broken(path, f"it holds no {missing.pop()}")
    return arrays


def _broken(path: Path, why: object) -> UserError:
    return UserError(
        f"{path} is no whole shard of noise ({why}): delete it and run the same extract.py "
        "task=invert again, which makes what is missing"
    )


def _as_written(name: str, rows: Shaped[np.ndarray, "..."], size: int) -> bool:
    """Whether an array has the form that task=invert gives it; finite where it is noise."""
    if name == "noise":
        shaped = rows.shape[1:] == (3, size, size) and rows.dtype == np.float32
        return shaped and bool(np.isfinite(rows).all())
    if name == "images":
        return rows.shape[1:] == (size, size, 3) and rows.dtype == np.uint8
    kinds = {"name": "U", "label": "i", "index": "i"}
    return rows.ndim == 1 and rows.dtype.kind == kinds.get(name, "f")
