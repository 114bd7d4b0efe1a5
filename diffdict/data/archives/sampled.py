"""Pictures that were drawn: the shards of task=samples, a folder of pictures, or one .npz file."""

import json
from pathlib import Path

from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.data.folder import PICTURES, FolderDataset, list_files, list_pictures
from diffdict.data.npz import NpzDataset
from diffdict.data.pictures import decode_picture, fit_picture
from diffdict.data.sample_indices import Shards
from diffdict.errors import UserError

RECORD = "samples.json"  # beside the shards of task=samples: what made them
NAME = "samples"


class PictureFolder(FolderDataset):
    """All pictures of a folder as they are, of one size; the first so many where it is said."""

    def __init__(self, path: Path, pictures: int | None = None) -> None:
        super().__init__(
            NAME, str(path), "train", train_pictures=pictures, masks=False, folders={"train": "."}
        )

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        path = self.root / self.pictures[index]
        pixels = decode_picture(path, str(path))
        if pixels.shape[:2] != (self.image_size, self.image_size):
            raise UserError(
                f"{path} is {pixels.shape[1]}×{pixels.shape[0]}, and the first picture beside it "
                f"{self.image_size}×{self.image_size}: samples are compared as they are, so give a "
                "folder of one size"
            )
        return {"image": fit_picture(pixels, None, None, str(path)), "index": index}


def shard_files(samples: range, format: str) -> list[str]:
    """The files of a shard of samples: one .npz, or a .png for each."""
    if format == "npz":
        return [f"samples_{samples.start:06d}-{samples.stop - 1:06d}.npz"]
    return [f"{index:06d}.png" for index in samples]


def open_samples(path: str | Path) -> Pictures:
    """All of them, at their own size; refuses a folder whose shards are not all there."""
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"samples={path} is not there: name a folder of task=samples, a folder of pictures, or "
            "an .npz file of arr_0"
        )
    if path.is_dir() and (path / RECORD).is_file():
        number, format = _finished(path)
        return _arrays(path) if format == "npz" else PictureFolder(path, number)
    if path.is_dir():
        names = list_files(path)
        if list_pictures(names):
            return PictureFolder(path)
        if not any(name.endswith(".npz") for name in names):
            raise UserError(
                f"samples={path} holds neither pictures ({' '.join(sorted(PICTURES))}) nor .npz "
                "files: name another folder"
            )
    return _arrays(path)


def sampled_condition(path: str | Path) -> str | None:
    """The word of condition= that a folder of task=samples was drawn with; None of all others."""
    record = Path(path) / RECORD
    return json.loads(record.read_bytes()).get("condition") if record.is_file() else None


def _arrays(path: Path) -> Pictures:
    return NpzDataset(NAME, str(path), "train")


def _finished(path: Path) -> tuple[int, str]:
    """How many samples a folder of task=samples holds, and in which format, if it is finished."""
    try:
        record = json.loads((path / RECORD).read_bytes())
        number, size, format = (record[key] for key in ("number", "shard_size", "format"))
        shards = Shards(number, size)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path / RECORD} was edited or damaged ({error!r}): name another folder, or draw the "
            "samples anew"
        ) from error
    there = {entry.name for entry in path.iterdir()}
    done = sum(
        len(shard) for shard in shards.ranges if there.issuperset(shard_files(shard, format))
    )
    if done < number:
        raise UserError(
            f"samples={path} holds {done} of its {number} samples in finished shards: run the "
            "extract.py task=samples that makes them again, what is finished is kept"
        )
    return number, format
