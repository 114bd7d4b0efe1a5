"""Pictures in an LMDB file under the keys of Diff-AE's sets: `{size}-{index:05d}` and `length`."""

import importlib
import io
import os
from pathlib import Path
from types import ModuleType

from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.data.pictures import decode_picture, fingerprint, fit_picture, split_range
from diffdict.errors import UserError

# py-lmdb opens a file once in a process, and a fork must not use its parent's: (process, handle)
_OPEN: dict[Path, tuple[int, object]] = {}


def lmdb_library() -> ModuleType:
    """The lmdb package, which is an extra."""
    try:
        return importlib.import_module("lmdb")
    except ImportError as error:
        raise UserError(
            "dataset=lmdb needs the lmdb package: pip install 'diffdict[lmdb]'"
        ) from error


def open_environment(path: Path) -> object:
    """This process's read-only handle of the file, without locks."""
    process, environment = _OPEN.get(path, (0, None))
    if process == os.getpid():
        return environment
    if environment is not None:
        environment.close()  # the copy that the fork brought; the parent keeps its own
    lmdb = lmdb_library()
    try:
        environment = lmdb.open(
            str(path),
            subdir=path.is_dir(),
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
        )
    except lmdb.Error as error:
        raise UserError(
            f"{path} cannot be opened as LMDB ({error}): dataset.path=… names a folder with "
            "data.mdb, or such a file, that you may read"
        ) from error
    _OPEN[path] = (os.getpid(), environment)
    return environment


class LmdbDataset(Pictures):
    """Unlabelled pictures; path/<split> where it exists, else the splits share path in turn.

    stored_size: the size in the keys where it is not image_size.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        split: str,
        image_size: int = 256,
        stored_size: int | None = None,
        train_pictures: int | None = None,
        val_pictures: int | None = None,
        test_pictures: int | None = None,
        crop: str | None = None,
    ):
        if path is None:
            raise UserError(f"dataset={name} needs an LMDB folder or file: dataset.path=…")
        base = Path(path)
        apart = (base / split).is_dir()
        self.path = (base / split if apart else base).absolute()
        data = self.path / "data.mdb" if self.path.is_dir() else self.path
        if not data.is_file():
            raise UserError(f"No LMDB at {self.path} ({data.name} is missing): dataset.path=…")
        self.data, self.name, self.split, self.crop = data, name, split, crop
        self.image_size, self.stored_size = image_size, stored_size or image_size
        counts = {"train": train_pictures, "val": val_pictures, "test": test_pictures}
        self.positions = split_range(self._length(), split, counts, name, not apart)
        if self.positions:
            self._bytes(0)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        name = self.picture_name(index)
        pixels = decode_picture(io.BytesIO(self._bytes(index)), name)
        return {"image": fit_picture(pixels, self.image_size, self.crop, name), "index": index}

    def picture_name(self, index: int) -> str:
        """The file and the picture's key in it."""
        return f"{self.path}[{self._key(index)}]"

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of the file, and with which pictures are taken at what size."""
        taken = (self.positions.start, self.positions.stop, self.stored_size)
        return fingerprint(self.data.parent, [self.data.name], taken, self.image_size, self.crop)

    def _key(self, index: int) -> str:
        return f"{self.stored_size}-{self.positions[index]:05d}"

    def _length(self) -> int:
        with open_environment(self.path).begin() as transaction:
            said = transaction.get(b"length")
            if said is None or not said.isdigit():
                first = next(iter(transaction.cursor().iternext(values=False)), b"")
                raise UserError(
                    f"{self.path} has no key 'length' with a number (its first key is "
                    f"{first[:40]!r}): the keys must be {{size}}-{{index:05d}} and length, as "
                    "Diff-AE's preparation writes them"
                )
            return int(said)

    def _bytes(self, index: int) -> bytes:
        key = self._key(index)
        with open_environment(self.path).begin() as transaction:
            found = transaction.get(key.encode())
            if found is None:
                first = next(iter(transaction.cursor().iternext(values=False)), b"")
                raise UserError(
                    f"{self.path} has no key {key} (its first key is {first[:40]!r}): "
                    "dataset.stored_size=… is the size in the keys"
                )
            return found
