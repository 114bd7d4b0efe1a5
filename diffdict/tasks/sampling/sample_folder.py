"""A folder of samples in shards: one can stop, resume and share it out; nothing is mixed into it.

A shard is a fixed range of samples. It appears whole or not at all, so what exists is finished. A
JSON file beside the shards says what made them, and another run's samples are refused.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from diffdict import files
from diffdict.backbones.denoiser import Denoiser
from diffdict.data.sample_indices import Shards
from diffdict.errors import UserError


class SampleFolder:
    """The shards below `path`, and in `record` what made them; `files_of` names a shard's files."""

    def __init__(
        self, path: Path, shards: Shards, record: str, files_of: Callable[[range], list[str]]
    ) -> None:
        self.path, self.shards, self.record, self.files_of = path, shards, record, files_of
        self.unfinished: dict[int, object] = {}  # samples whose shard is not whole yet
        self.new: list[Path] = []  # folders that were not there before, the innermost first

    def paths(self, shard: range) -> list[Path]:
        """The files of a shard."""
        return [self.path / name for name in self.files_of(shard)]

    def done(self, shard: range) -> bool:
        """Whether the shard is finished."""
        return all(path.exists() for path in self.paths(shard))

    @property
    def finished(self) -> int:
        """How many samples lie in finished shards."""
        return sum(len(shard) for shard in self.shards.ranges if self.done(shard))

    @property
    def bytes(self) -> int:
        """What the finished shards take on the disk."""
        done = [shard for shard in self.shards.ranges if self.done(shard)]
        return sum(path.stat().st_size for shard in done for path in self.paths(shard))

    def extracted(self) -> list[dict[str, str | int]]:
        """The folder's row in what an extraction has made."""
        return [{"path": str(self.path.absolute()), "pictures": self.finished, "bytes": self.bytes}]

    @property
    def missing(self) -> int:
        """How many are still to be made."""
        return self.shards.number - self.finished

    def check(self, identity: Mapping[str, object], sample_bytes: int) -> None:
        """Refuses a folder that holds other samples, or has no room for those that are missing."""
        self.new = [path for path in (self.path, *self.path.parents) if not path.exists()]
        files.writable_folder(self.path)
        record = self.path / self.record
        if record.exists() and (stored := _read(record)) != files.as_json_values(identity):
            keys = {**identity, **stored}
            other = next(key for key in keys if identity.get(key) != stored.get(key))
            raise UserError(
                f"{self.path} holds other samples: their {other} is {stored.get(other)}, and now "
                f"{identity.get(other)} is asked for. Choose another folder, or delete that one."
            )
        files.require_space(self.path, self.missing * sample_bytes, "the samples")

    def discard(self) -> None:
        """Leaves no folder that is new and empty, where there is nothing to be made after all."""
        with suppress(OSError):
            for path in self.new:
                path.rmdir()

    def claim(self, identity: Mapping[str, object]) -> None:
        """Marks the folder as one of these samples, and says what is to be done."""
        files.write_atomic(self.path / self.record, files.json_text(identity, indent=1).encode())
        say("plan", missing=self.missing, **identity, folder=self.path)

    def complete(self, indices: Sequence[int], samples: Sequence[object]) -> list | None:
        """Keeps these until their shard is whole: then all of it, in order."""
        self.unfinished.update(zip(indices, samples, strict=True))
        shard = self.shards.of(indices[0])
        if not all(index in self.unfinished for index in shard):
            return None
        return [self.unfinished.pop(index) for index in shard]


def _read(record: Path) -> dict[str, object]:
    """What made the samples that lie there."""
    try:
        stored = json.loads(record.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError("it holds no facts by name")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{record} was edited or damaged ({error}): choose another folder, or delete that one"
        ) from error
    return stored


def check_finite(
    pictures: Float[Tensor, "batch _ _ _"], names: Sequence[object], maker: str, trainer: pl.Trainer
) -> None:
    """Stops where a sampler left the numbers; nothing of that shard is written."""
    finite = pictures.isfinite().flatten(1).all(1).tolist()
    broken = [str(name) for name, fine in zip(names, finite, strict=True) if not fine]
    if broken:
        raise UserError(
            f"{maker} ended in what is no number for sample {', '.join(broken[:4])}"
            f"{' …' if len(broken) > 4 else ''} (precision {trainer.precision}): "
            "trainer.precision=32-true, or check the network's weights. Finished shards are kept"
        )


def say(title: str, **rows: object) -> None:
    """A short table on the screen."""
    table = Table(title=title, show_header=False, box=None, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, Text(str(value), overflow="fold"))
    Console(soft_wrap=True).print(table)


def check_noise_start(sampler: partial) -> None:
    """A chain that begins with noise."""
    if "noise" not in inspect.signature(sampler).parameters:
        raise UserError(
            f"{sampler.func.__name__} starts from pictures, samples start from noise: task=invert "
            "turns pictures into noise, sampler=ddim or sampler=ddpm draws samples"
        )


def check_clipping(net: Denoiser, sampler: partial) -> None:
    """Nothing, or that a sampler would clip latents as if they were pictures."""
    clips = inspect.signature(sampler).parameters.get("clip_denoised")
    if net.decodes and clips is not None and clips.default:
        raise UserError(
            f"{net.name} denoises latents, which do not end at -1 and 1 as pictures do: "
            "sampler.clip_denoised=false"
        )
