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
from torch.utils.data import Dataset

from diffdict import files
from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.passes import Key
from diffdict.features.shards import MASK, TORCH, ShardWriter, Stream
from diffdict.features.store import FeatureStore, Identity, pictures_per_shard, store_path

INTEGER = {2: torch.int16, 4: torch.int32}  # by bytes
Maps = Mapping[Key, Float[Tensor, "batch _ _ _"]]


class FeatureWriter(pl.Callback):
    """Stores predicted maps and the masks under root/dataset/backbone/split.

    One thread writes a batch while the next is computed, so at most one shard is being written
    and one computed: what a kill can lose.
    """

    def __init__(self, root: str | Path, storage: str = "fp16") -> None:
        if storage not in ("fp16", "bf16", "fp32"):
            raise UserError(f"storage is fp16, bf16 or fp32, got {storage}")
        self.root, self.storage = Path(root), storage
        self.stores: dict[str, FeatureStore] = {}
        self.open: dict[str, ShardWriter] = {}  # the shard being written, by stream
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
            facts = identity(pictures, pl_module, sha256)
            path = store_path(self.root, pictures.name, pl_module.net.name, split)
            made = streams(pl_module.net, pl_module.passes.keys, pictures, self.storage)
            palette = [list(colour) for colour in pictures.palette]
            store = FeatureStore.create(path, facts, made, {"palette": palette})
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
            made = [stream for name, stream in store.streams.items() if name != MASK]
            steps = _listed(s.timestep for s in made if s.timestep is not None)
            blocks = _listed(s.block for s in made)
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
        outputs: Maps,
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
            rate = f"{self.pictures / (time.perf_counter() - self.started):.1f} pictures/s"
            bar.progress.update(bar.predict_progress_bar_id, description=rate)

    def _store(self, outputs: Maps, batch: dict, pictures: Dataset) -> None:
        """One batch into the temporary files of its shard; the last one finishes the shard."""
        store, shard = self.stores[batch["split"]], batch["shard"]
        index = batch["index"].cpu()
        for key in batch["wanted"]:
            stream = next(s for s in store.streams.values() if (s.timestep, s.block) == key)
            if stream.block == MASK:
                rows = masks(batch["mask"], index, pictures)
            else:
                rows = tokens(outputs[key], stream, index, pictures)
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
        if self.pending is not None:
            self.pending.exception()  # the one that is being raised already says what is wrong
        for writer in self.open.values():
            writer.abandon()
        self.open.clear()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The last shard on disk, then what was written, in one table."""
        self._wait()
        self._abandon()  # a run of limited batches may end within a shard
        self.pool.shutdown()
        for child in self.children:
            child.wait()  # so that the table tells of all ranks
        if trainer.is_global_zero:
            self._show_result(trainer.world_size)

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


def identity(pictures: Dataset, task: pl.LightningModule, sha256: str) -> Identity:
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
        noise=noise._asdict() if noise else None,
        compute=task.passes.compute,
        pictures_per_shard=pictures_per_shard(len(pictures)),
    )


def streams(net: Backbone, asked: list[Key], pictures: Dataset, storage: str) -> list[Stream]:
    """The streams asked for, and the masks' where there are labels."""
    made = [Stream(*net.shapes[block], storage, step, block) for step, block in asked]
    side = pictures.image_size
    return [*made, Stream(1, side, side, "uint8", None, MASK)] if pictures.labelled else made


def tokens(
    maps: Float[Tensor, "batch channels height width"],
    stream: Stream,
    index: Int64[Tensor, " batch"],
    pictures: Dataset,
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
    labels: Shaped[Tensor, "batch height width"], index: Int64[Tensor, " batch"], pictures: Dataset
) -> Shaped[Tensor, "batch height width"]:
    """The masks as they are stored: bytes."""
    outside = ((labels < 0) | (labels > 255)).flatten(1).any(dim=1).cpu()
    if bool(outside.any()):
        name = pictures.picture_name(int(index[outside][0]))
        raise UserError(f"The mask of {name} has labels outside 0..255, which a store cannot keep")
    return labels.to(torch.uint8).cpu()
