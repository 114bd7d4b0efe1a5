"""Pooled features that a probe's run leaves for later ones: a store an epoch, whole or absent.

In a folder of the network's: `train-0000`, …, and `val`, `test`, whose noise is the same in every
epoch. Each is a feature store of one shard a map, in fp16, its pictures in the order of the epoch.
"""

import itertools
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Float32, Int64, Integer
from torch import Tensor

from diffdict import files
from diffdict.data.images import epoch_order
from diffdict.errors import UserError, first_few
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.probe_images import KeptFolder, KeptPart, ProbedPictures, ProbeImages
from diffdict.features.recorded_network import RecordedNetwork
from diffdict.features.store import POOL, FeatureStore, Identity
from diffdict.features.store.sealed import StoreError
from diffdict.features.store.shards import BrokenShard, Stream

STORAGE = "fp16"


class KeptVectors:
    """Reads the parts that are whole, and writes those that are not as they are computed."""

    def __init__(self, passes: Passes, noise: Noise, seed: int) -> None:
        """`passes` of a RecordedNetwork; `seed` is the probe's, of its noise in training."""
        self.net: RecordedNetwork = passes.net
        self.folder, self.passes, self.noise, self.seed = self.net.folder, passes, noise, seed
        self.parts = KeptFolder(self.folder)
        widths = {block: self.net.shapes[block][0] for block in passes.blocks}
        self.streams = [Stream(widths[key[1]], 1, 1, STORAGE, *key) for key in passes.keys]
        self.data: ProbeImages | None = None
        self.asked: list[KeptPart] = []  # of the run to come
        self._read: dict[str, tuple[KeptPart, FeatureStore]] = {}  # by split, the part last read
        self._order: tuple[KeptPart | None, Tensor] = (None, torch.empty(0))  # places by picture
        self._writer: PartWriter | None = None
        self._writes = False

    # ------------------------------------------------------------------ before

    def attend(self, trainer: pl.Trainer, stage: str) -> None:
        """Makes ready for a run's training and validation, or for its test."""
        data = trainer.datamodule
        if not isinstance(data, ProbeImages):
            return  # loaders of somebody's own: nothing says what their pictures are
        test = KeptPart(data.test_split)
        parts = [test] if stage == "test" or self.parts.has(test) else []
        if stage == "fit":
            parts += [*self._epochs(trainer, data), KeptPart("val")]
        self.prepare(data, parts, trainer.world_size)

    def _epochs(self, trainer: pl.Trainer, data: ProbeImages) -> list[KeptPart]:
        """The epochs of a run; of one without an end those that are kept, and the next."""
        epochs = trainer.max_epochs or -1
        if epochs < 0 and trainer.max_steps > 0:
            batches = max(1, len(data.split("train")) // (data.batch_size * trainer.world_size))
            epochs = -(-trainer.max_steps * trainer.accumulate_grad_batches // batches)
        if epochs < 0:
            every = (KeptPart("train", epoch) for epoch in range(data.copies or sys.maxsize))
            whole = list(itertools.takewhile(self.parts.has, every))
            return list(dict.fromkeys([*whole, KeptPart("train", data.copy_of(len(whole)))]))
        copies = dict.fromkeys(map(data.copy_of, range(epochs)))
        return [KeptPart("train", copy) for copy in copies]

    def prepare(self, data: ProbeImages, parts: Sequence[KeptPart], world: int) -> None:
        """Refuses what lies there of other features, and what could not be written.

        `parts` are those of the run to come; `data` then gives no pictures of those that are whole.
        """
        self.data, self.asked = data, list(parts)
        for stray in self.folder.glob("*.tmp"):
            if not files.busy(stray):  # of a run that was killed
                files.remove(stray)
        for part in parts:
            if self.parts.has(part):
                self._open(part)
        for split in dict.fromkeys(part.split for part in parts):
            data.read_kept(self.parts, split)
        lacking = [part for part in parts if not self.parts.has(part)]
        self._writes = bool(lacking)
        if not lacking:
            return
        if world > 1:
            raise UserError(
                f"keep=true writes features on one rank, and here are {world}: trainer.devices=1; "
                "what one rank has left any number can read"
            )
        trains = any(part.epoch is not None for part in lacking)
        if trains and data.drop_last:
            raise UserError(
                "keep=true keeps every training picture of an epoch, and data.drop_last=true "
                "leaves some out: data.drop_last=false"
            )
        files.writable_folder(self.folder)
        each = sum(stream.picture_bytes for stream in self.streams)
        need = each * sum(len(data.split(part.split)) for part in lacking)
        files.require_space(self.folder, need, "the features to be kept")

    def _open(self, part: KeptPart) -> FeatureStore:
        """A part that is whole, of these very features."""
        path, identity = self.folder / part.name, self._identity(part).facts
        with _kept_anew(path):
            store = FeatureStore.open(path, expect=identity)
        absent = [stream.name for stream in self.streams if stream.name not in store.streams]
        if absent:
            raise StoreError(
                f"{path} holds features of {first_few(store.streams)}, none of "
                f"{first_few(absent)}: ask for those with timestep= and block=, choose another "
                f"folder (paths.features=), or delete {self.folder}"
            )
        return store

    def _identity(self, part: KeptPart) -> Identity:
        """What makes the features of this part what they are."""
        pictures: ProbedPictures = self.data.split(part.split)
        timed, trains = self.net.num_timesteps is not None, part.epoch is not None
        noise = self.noise._replace(draws=1) if trains else self.noise
        changes = {"epoch": part.epoch, "seed": self.seed, **self.data.changes} if trains else None
        return Identity(
            dataset=pictures.name,
            dataset_hash=pictures.content,
            split=part.split,
            pictures=len(pictures),
            image_size=pictures.image_size,
            num_classes=pictures.known["num_classes"],
            class_names=list(pictures.known["class_names"]),
            ignore_label=pictures.known["ignore_label"],
            backbone=self.net.name,
            backbone_sha256=self.net.sha256,
            noise=noise.facts() if timed else None,
            compute=self.passes.compute,
            pictures_per_shard=len(pictures),
            pool=POOL,
            training=changes,
        )

    # ------------------------------------------------------------------ during

    def vectors(
        self, part: KeptPart, indices: Integer[Tensor, " batch"]
    ) -> list[Float32[Tensor, "batch _"]]:
        """Each cell's features of these pictures, every byte checked when a part is opened."""
        last, store = self._read.get(part.split, (None, None))
        if last != part:
            store = self._open(part)
            self._read[part.split] = part, store
        place = self._places(part, indices)
        with _kept_anew(self.folder / part.name):
            return [store.mapped(stream.name, 0).x[place, 0].float() for stream in self.streams]

    def add(
        self,
        part: KeptPart,
        indices: Integer[Tensor, " batch"],
        vectors: Sequence[Float[Tensor, "batch _"]],
    ) -> list[Float32[Tensor, "batch _"]]:
        """Writes the next pictures of a part; answers with what a later run will read of them.

        A part that is not begun at its first picture is left out.
        """
        halves = [vector.half() for vector in vectors]
        for stream, half, vector in zip(self.streams, halves, vectors, strict=True):
            if not half.isfinite().all():
                raise UserError(
                    f"keep=true keeps features in fp16, and those of {stream.name} reach "
                    f"{float(vector.abs().max()):.3g}: leave keep= out, or block= without it"
                )
        if self._writes and not self.parts.has(part):
            self._write(part, self._places(part, indices).tolist(), halves)
        return [half.float() for half in halves]

    def _write(self, part: KeptPart, place: list[int], halves: list[Tensor]) -> None:
        if self._writer is not None and self._writer.part != part:
            self.abandon()
        if self._writer is None:
            if place[0]:
                return  # its first pictures are gone by
            self._writer = PartWriter(self.folder, part, self._identity(part), self.streams)
        writer = self._writer
        if place != list(range(writer.next, writer.next + len(place))):
            self.abandon()
            return
        try:
            writer.add([half.cpu() for half in halves])
            if writer.whole:
                self.net.keep_record()
                writer.publish()
        except BaseException:
            self.abandon()
            raise
        if writer.whole:
            self._writer = None

    def abandon(self) -> None:
        """Takes away the part that is being written."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _places(
        self, part: KeptPart, indices: Integer[Tensor, " batch"]
    ) -> Int64[Tensor, " batch"]:
        """Where these pictures stand in the order of their part."""
        pictures = self.data.split(part.split)
        rows = torch.tensor(pictures.rows(indices.tolist()))
        if part.epoch is None:
            return rows
        if self._order[0] != part:
            order = torch.tensor(epoch_order(len(pictures), self.data.seed, part.epoch))
            self._order = part, order.argsort()
        return self._order[1][rows]


class PartWriter:
    """One part being written under another name, beside the whole ones."""

    def __init__(
        self, folder: Path, part: KeptPart, identity: Identity, streams: Sequence[Stream]
    ) -> None:
        self.part, self.path, self.next = part, folder / part.name, 0
        self.pictures, self.temp = identity.pictures, files.temporary(folder / part.name)
        self.writers, self._lock = [], ExitStack()
        try:
            store = FeatureStore.create(self.temp, identity, streams)
            self._lock.enter_context(files.exclusive_folder(self.temp))
            for stream in streams:
                self.writers.append(store.writer(stream.name, 0))
        except BaseException:
            self.abandon()
            raise

    @property
    def whole(self) -> bool:
        """Whether it has all its pictures."""
        return self.next == self.pictures

    def add(self, vectors: Sequence[Float[Tensor, "batch _"]]) -> None:
        """The next pictures, a tensor a stream."""
        for writer, rows in zip(self.writers, vectors, strict=True):
            writer.extend(rows[:, None])
        self.next += len(vectors[0])

    def publish(self) -> None:
        """Gives the part its name; where another run was quicker, its part stays."""
        for writer in self.writers:
            writer.finish()
        self._lock.close()
        if (self.path / "store.json").is_file():
            files.remove(self.temp)
        else:
            files.publish(self.temp, self.path)

    def abandon(self) -> None:
        """Nothing of it is left."""
        for writer in self.writers:
            writer.abandon()
        self._lock.close()
        files.remove(self.temp)


class AbandonUnfinished(pl.Callback):
    """Takes away the part that a run has not finished, and says which are lacking."""

    def __init__(self, kept: KeptVectors) -> None:
        self.kept = kept

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leaves nothing half-written behind."""
        self.kept.abandon()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Names the epochs that were begun in their middle."""
        lacking = [part.name for part in self.kept.asked if not self.kept.parts.has(part)]
        if lacking and self.kept.data is not None and trainer.is_global_zero:
            warnings.warn(
                f"Not kept, for this run did not see all of it: {first_few(lacking)}. A run with "
                "keep=true from the start keeps it",
                stacklevel=2,
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Neither does a run of limited batches."""
        self.kept.abandon()


@contextmanager
def _kept_anew(part: Path) -> Iterator[None]:
    """A part with a broken file is made again as a whole."""
    try:
        yield
    except BrokenShard as error:
        raise StoreError(f"{error.what}. Delete {part}, and this run keeps it anew.") from error
