"""FeatureWriter: the callback that plans an extraction, deals what is missing, and stores it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import Popen

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, Shaped
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffdict import files
from diffdict.backbones.base import Backbone
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.features.locations import Key
from diffdict.features.noise import Noise
from diffdict.features.store import (
    FeatureStore,
    Identity,
    check_pool,
    pictures_per_shard,
    store_path,
)
from diffdict.features.store.shards import ATTRIBUTES, LABEL, MASK, TORCH, ShardWriter, Stream
from diffdict.features.store.stored_latents import StoredLatents

INTEGER = {2: torch.int16, 4: torch.int32}  # by bytes
BlockMaps = Mapping[Key, Float[Tensor, "batch _ _ _"]]


class FeatureWriter(pl.Callback):
    """Stores predicted maps and the labels under root/dataset/backbone/split.

    One thread writes a batch while the next is computed, so at most one shard is being written
    and one computed: what a kill can lose.
    """

    def __init__(self, root: str | Path, storage: str = "fp16", pool: str | None = None) -> None:
        """`pool=mean` stores of each map its mean, one token, in a store of its own."""
        if storage not in ("fp16", "bf16", "fp32"):
            raise UserError(f"storage is fp16, bf16 or fp32, got {storage}")
        check_pool(pool)
        self.root, self.storage, self.pooling = Path(root), storage, pool
        self.stores: dict[str, FeatureStore] = {}
        self.open: dict[str, ShardWriter] = {}  # the shard being written, by stream
        self.pool: ThreadPoolExecutor | None = None  # the writing thread, while a run lasts
        self.pending: Future | None = None  # the batch being written
        self.children: list[Popen] = []  # the other ranks, where this process started them
        self.pictures, self.started = 0, 0.0

    # ------------------------------------------------------------------ before

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Opens the stores and deals this rank its missing shards; refuses what cannot work."""
        if trainer.precision not in ("32-true", "32"):
            raise UserError(
                f"Features are computed in compute=fp32, bf16 or fp16, "
                f"got trainer.precision={trainer.precision}: say compute= instead"
            )
        data = trainer.datamodule
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="feature-writer")
        self.children = getattr(trainer.strategy.launcher, "procs", [])
        trainer.predict_loop.return_predictions = False  # they go to disk, not into a list
        rank, world = trainer.global_rank, trainer.world_size
        sha256 = pl_module.net.sha256
        for split, pictures in data.splits.items():
            if isinstance(pictures, StoredLatents):
                pictures.check_network(pl_module.net)
            facts = identity(pictures, pl_module, sha256)._replace(pool=self.pooling)
            path = store_path(self.root, pictures.name, pl_module.net.name, split, self.pooling)
            maps = streams(pl_module.net, pl_module.passes.keys, pictures, self.storage)
            if self.pooling is not None:
                maps = [one if one.is_label else one._replace(height=1, width=1) for one in maps]
            palette = [list(colour) for colour in pictures.palette]
            store = FeatureStore.create(path, facts, maps, {"palette": palette})
            store.sweep(rank, world)
            self.stores[split] = store
        if trainer.is_global_zero:
            self._show_plan()
        self._require_room()
        for split, store in self.stores.items():
            for shard, names in store.todo(rank, world).items():
                images = store.file(names[0], shard).images
                keys = [(s.timestep, s.block) for s in map(store.streams.get, names)]
                data.deal(split, shard, images, keys)

    def _missing(self, store: FeatureStore) -> int:
        """Bytes that all ranks together will write."""
        lacking = [(name, shard) for shard, names in store.todo().items() for name in names]
        return sum(store.file(name, shard).size for name, shard in lacking)

    def _require_room(self) -> None:
        """Nothing, or a UserError when what is missing does not fit or may not be written."""
        if missing := sum(map(self._missing, self.stores.values())):
            for store in self.stores.values():
                files.writable_folder(store.path)
            files.require_space(self.root, missing, "the features that are missing")

    def _show_plan(self) -> None:
        free = files.human_bytes(files.free_bytes(self.root))
        rows = []
        for split, store in self.stores.items():
            features = store.features.values()
            steps = _listed(s.timestep for s in features if s.timestep is not None)
            blocks = _listed(s.block for s in features)
            lacks = f"{len(store.todo())} of {store.shards} shards" if store.todo() else "nothing"
            size = files.human_bytes(self._missing(store))
            rows.append((split, str(len(store)), steps or "-", blocks, lacks, size))
        head = ("split", "pictures", "timesteps", "blocks", "missing", "to write")
        _show(f"Features to make ({free} free)", head, rows)

    # ------------------------------------------------------------------ during

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts with the first batch."""
        self.started = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: BlockMaps,
        batch: dict,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hands the batch to the writing thread once the one before it is on its way to disk."""
        self._wait()
        pictures = trainer.datamodule.splits[batch["split"]]
        self.pending = self.pool.submit(self._store, outputs, batch, pictures)
        self.pictures += len(batch["index"])
        self._show_rate(trainer)

    def _wait(self) -> None:
        """Until nothing is being written; what failed there is raised here."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def _show_rate(self, trainer: pl.Trainer) -> None:
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar) and bar.predict_progress_bar_id is not None:
            rate = spoken_rate(self.pictures, time.perf_counter() - self.started)
            bar.progress.update(bar.predict_progress_bar_id, description=rate)

    def _store(self, outputs: BlockMaps, batch: dict, pictures: Pictures) -> None:
        """One batch into the temporary files of its shard; the last one finishes the shard."""
        store, shard = self.stores[batch["split"]], batch["shard"]
        index = batch["index"].cpu()
        for key in batch["wanted"]:
            stream = next(s for s in store.streams.values() if (s.timestep, s.block) == key)
            if stream.block == MASK:
                rows = masks(batch["mask"], index, pictures)
            elif stream.is_label:
                row_each = batch[stream.block].reshape(len(index), *stream.picture)
                rows = row_each.to(TORCH[stream.dtype]).cpu()
            else:
                maps = outputs[key]
                if self.pooling is not None:
                    maps = maps.float().mean((2, 3), keepdim=True)
                rows = tokens(maps, stream, index, pictures)
            if stream.name not in self.open:
                self.open[stream.name] = store.writer(stream.name, shard)
            for row in rows:
                self.open[stream.name].add(row)
        if index[-1] == store.file(next(iter(self.open)), shard).images[-1]:
            for name in list(self.open):
                self.open[name].finish()
                del self.open[name]

    # ------------------------------------------------------------------ after

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leaves nothing half-written behind."""
        self._abandon()

    def _abandon(self) -> None:
        """Ends the writing thread with the batch that it is at, and drops the open shard."""
        if self.pool is not None:
            self.pool.shutdown()
        self.pending = None  # what failed there is no news: something is being raised
        for writer in self.open.values():
            writer.abandon()
        self.open.clear()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The last shard on disk, then what was written, in one table."""
        self._wait()
        self._abandon()  # a run of limited batches may end within a shard
        for child in self.children:
            child.wait()  # so that the table tells of all ranks
        if trainer.is_global_zero:
            self._show_result(trainer.world_size)

    def extracted(self) -> list[dict[str, str | int]]:
        """A row a split: how much of whole shards is in its store, and where that lies."""
        rows = []
        for split, store in self.stores.items():
            todo, layout = store.todo(), store.streams
            whole = [shard for shard in range(store.shards) if shard not in todo]
            pictures = sum(len(store.file(next(iter(layout)), shard).images) for shard in whole)
            tokens = sum(stream.picture[0] for stream in layout.values() if stream.block != MASK)
            size = sum(stream.picture_bytes for stream in layout.values())
            counts = {"pictures": pictures, "tokens": pictures * tokens, "bytes": pictures * size}
            rows.append({"split": split, "path": str(store.path.absolute()), **counts})
        return rows

    def _show_result(self, world: int) -> None:
        rate = self.pictures / max(time.perf_counter() - self.started, 1e-9)
        title = (
            f"{self.pictures} pictures, {rate:.1f} a second" if self.pictures else "Nothing to do"
        )
        title += " on this rank" if world > 1 else ""
        rows = []
        for split, store in self.stores.items():
            size = sum(s.picture_bytes for s in store.streams.values()) * len(store)
            todo = len(store.todo())
            state = f"{todo} of {store.shards} shards missing" if todo else "complete"
            rows.append((split, str(len(store)), files.human_bytes(size), state))
        _show(title, ("split", "pictures", "size", "state"), rows)
        for store in self.stores.values():
            Console(soft_wrap=True).print(f" {store.path}", highlight=False)  # never folded


def _listed(values: Iterable[int | str]) -> str:
    """Each once; of more than six the ends and the count, which keep the table on a screen."""
    each = list(dict.fromkeys(map(str, values)))
    return ", ".join(each) if len(each) <= 6 else f"{each[0]} … {each[-1]} ({len(each)})"


def _show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=None)
    for column in head:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def identity(pictures: Pictures, task: pl.LightningModule, sha256: str) -> Identity:
    """What makes the features of these pictures what they are."""
    noise: Noise | None = task.passes.noise if task.net.num_timesteps is not None else None
    return Identity(
        dataset=pictures.name,
        dataset_hash=pictures.fingerprint,
        split=pictures.split,
        pictures=len(pictures),
        image_size=pictures.image_size,
        num_classes=pictures.num_classes,
        class_names=list(pictures.class_names),
        ignore_label=pictures.ignore_label,
        backbone=task.net.name,
        backbone_sha256=sha256,
        noise=noise.facts() if noise else None,
        compute=task.passes.compute,
        pictures_per_shard=pictures_per_shard(len(pictures)),
    )


def streams(net: Backbone, asked: list[Key], pictures: Pictures, storage: str) -> list[Stream]:
    """The streams asked for, and one for each kind of label that the pictures have."""
    features = [Stream(*net.shapes[block], storage, step, block) for step, block in asked]
    side, facts = pictures.image_size, pictures.facts
    classes, attributes = facts["picture_classes"], facts["attributes"]
    labels = {
        "mask": Stream(1, side, side, "uint8", None, MASK),
        "label": Stream(1, 1, 1, "int64", None, LABEL, classes),
        "attributes": Stream(len(attributes), 1, 1, "fp32", None, ATTRIBUTES, attributes),
    }
    for kind in pictures.label_kinds:
        if kind in {stream.name for stream in features}:
            raise UserError(
                f"{net.name} has a block called {kind}, as a store calls labels of the pictures: "
                "give the block another name"
            )
    return [*features, *(labels[kind] for kind in pictures.label_kinds)]


def tokens(
    maps: Float[Tensor, "batch channels height width"],
    stream: Stream,
    index: Int64[Tensor, " batch"],
    pictures: Pictures,
) -> Shaped[Tensor, "batch tokens channels"]:
    """The maps as they are stored: channel-last, in the stream's dtype, finite."""
    stored = maps.to(TORCH[stream.dtype])
    # as integers of the same size: torch transposes those faster than halves
    bits = stored.view(INTEGER[stored.element_size()]).flatten(2).transpose(1, 2).contiguous()
    stored = bits.view(stored.dtype)
    least, most = torch.aminmax(stored)  # NaN goes through; twenty times faster than isfinite
    if not (least.isfinite() and most.isfinite()):
        finite = torch.isfinite(stored).flatten(1).all(dim=1).cpu()
        name = pictures.picture_name(int(index[~finite][0]))
        overflow = bool(torch.isfinite(maps).all())
        largest = f"{maps.abs().max().item():.3g}"
        cause = (
            f"values up to {largest} do not fit {stream.dtype}: storage=bf16 or fp32 holds them"
            if overflow
            else "NaN or infinity: look at the picture and the checkpoint, or use compute=fp32"
        )
        raise UserError(f"Features of {name} in stream {stream.name} are not finite: {cause}")
    return stored.cpu()


def masks(
    labels: Shaped[Tensor, "batch height width"], index: Int64[Tensor, " batch"], pictures: Pictures
) -> Shaped[Tensor, "batch height width"]:
    """The masks as they are stored: bytes."""
    outside = ((labels < 0) | (labels > 255)).flatten(1).any(dim=1).cpu()
    if bool(outside.any()):
        name = pictures.picture_name(int(index[outside][0]))
        raise UserError(f"The mask of {name} has labels outside 0..255, which a store cannot keep")
    return labels.to(torch.uint8).cpu()


def spoken_rate(pictures: int, seconds: float) -> str:
    """In the unit that leaves something before the point: pictures/s, or s a picture."""
    if pictures and seconds > pictures:
        return f"{seconds / pictures:.1f} s/picture"
    return f"{pictures / max(seconds, 1e-9):.1f} pictures/s"
