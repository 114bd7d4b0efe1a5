"""Shuffled tokens for dictionaries: one spatial position of a map is one vector, stored or live."""

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.features.labelled import LabelledPicture, PictureLoader, SeenPictures
from diffdict.features.moments import Measured, measure
from diffdict.features.passes import Blocks, Timesteps
from diffdict.features.pool import LivePool, Pool, StoredPool
from diffdict.features.shuffle import ResumableLoader, Windows, permutation
from diffdict.features.sources import LiveSource, Origin, Source
from diffdict.metrics.selection import exchanged

RING = 8  # output tensors that are used in turn: a fresh one a batch costs up to 3.5 times as much
AHEAD = 4  # batches waiting; with the one in work and the one in use, well within the ring
SAMPLE_TOKENS = 131_072  # for mean and scale from a store
SAMPLE_PICTURES = 64  # for mean and scale from a backbone
SHOWN_TOKENS = 32_768  # of a sample that quantiles of activations come from


class Memory(NamedTuple):
    """What an epoch's thread works in; the next epoch's takes it over."""

    window: Shaped[Tensor, "tokens d_in"]
    ring: Iterator[Tensor]  # the outputs, used in turn


class TokenLoader(ResumableLoader[Tensor]):
    """Batches of an epoch, made by one thread; a batch stays valid while the next two are used."""

    def __init__(
        self, pool: Pool, batch_size: int, window: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.pool, self.rank = pool, rank
        self._spare: list[Memory] = []
        self.windows = Windows(pool.units, pool.strip, batch_size, window, world)
        plan = {"units": pool.units, "strip": pool.strip, "batch_size": batch_size}
        super().__init__(seed, {**plan, "window": window, "world": world})

    def __len__(self) -> int:
        return self.windows.batches

    def batches(self, epoch: int, taken: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """The batches of an epoch after the first `taken` ones."""
        waiting: queue.Queue = queue.Queue(AHEAD)
        stop = threading.Event()
        work = threading.Thread(target=self._work, args=(epoch, taken, waiting, stop), daemon=True)
        work.start()
        try:
            while (item := waiting.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            work.join()

    def _work(self, epoch: int, taken: int, waiting: queue.Queue, stop: threading.Event) -> None:
        memory = self._spare.pop() if self._spare else self._allocate()
        try:
            for batch in self._make(epoch, taken, memory):
                if not _put(waiting, batch, stop):
                    return
            _put(waiting, None, stop)
        except BaseException as error:  # raised again where the batches are used
            _put(waiting, error, stop)
        finally:
            self._spare.append(memory)

    def _allocate(self) -> Memory:
        pool, windows = self.pool, self.windows
        options = {"dtype": pool.dtype, "device": pool.device}
        tokens = max(map(windows.strips, windows.counts)) * pool.strip
        pinned = torch.cuda.is_available() and pool.device.type == "cpu"
        size = (windows.batch, pool.width)
        ring = [torch.empty(*size, **options, pin_memory=pinned) for _ in range(RING)]
        return Memory(torch.empty(tokens, pool.width, **options), cycle(ring))

    def _make(self, epoch: int, taken: int, memory: Memory) -> Iterator[Tensor]:
        pool = self.pool
        walk = self.windows.walk(self.seed, epoch, self.rank, taken)
        window = next(walk, None)
        if window is not None:
            pool.read_ahead(window.units)
        while window is not None:
            held = memory.window[: len(window.units) * pool.strip]
            pool.fill(window.units, held)
            following = next(walk, None)
            if following is not None:
                pool.read_ahead(following.units)
            order = window.order.to(pool.device)
            for batch in order.split(self.windows.batch)[window.first :]:
                yield torch.index_select(held, 0, batch, out=next(memory.ring))
            window = following


def _put(waiting: queue.Queue, item: Tensor | BaseException | None, stop: threading.Event) -> bool:
    """Whether the item could be handed over before the other side stopped."""
    while not stop.is_set():
        try:
            waiting.put(item, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False


class OrderedTokens:
    """All tokens of a pool in order, the last batch short; ranks hold equal parts."""

    def __init__(self, pool: Pool, batch_size: int, rank: int = 0, world: int = 1) -> None:
        share = pool.units // world
        self.pool, self.batch_size = pool, batch_size
        self.units = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return math.ceil(len(self.units) * self.pool.strip / self.batch_size)

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        pool = self.pool
        step = math.lcm(self.batch_size, pool.strip) // pool.strip  # units that fill whole batches
        for i in range(0, len(self.units), step):
            units = torch.tensor(self.units[i : i + step])
            out = torch.empty(
                len(units) * pool.strip, pool.width, dtype=pool.dtype, device=pool.device
            )
            pool.fill(units, out)
            yield from out.split(self.batch_size)


def hold_out(
    pictures: int, val_pictures: int | None, val_fraction: float
) -> tuple[list[int], list[int]]:
    """Pictures to learn from and pictures held out: the same ones whatever the seed of a run."""
    if not 0 <= val_fraction < 1:
        raise UserError(f"data.val_fraction lies in [0, 1), got {val_fraction}: 0.05 is usual")
    count = round(pictures * val_fraction) if val_pictures is None else val_pictures
    if val_pictures is None and val_fraction > 0 and pictures > 1:
        count = max(1, count)
    if not 0 <= count < pictures:
        raise UserError(
            f"The hold-out must leave pictures to learn from, got {count} of {pictures}: "
            f"lower data.val_pictures or data.val_fraction"
        )
    order = permutation(pictures, 0).tolist()
    return sorted(order[count:]), sorted(order[:count])


class TokenDataModule(pl.LightningDataModule):
    """Raw tokens, [batch, d_in] in the stored dtype, of a dataset's pictures."""

    def __init__(
        self,
        dataset: Callable[..., Dataset] | None = None,
        backbone: Callable[[], Backbone] | Backbone | None = None,
        *,
        dataset_name: str = "",
        backbone_name: str = "",
        checkpoint: str | None = None,
        root: str = "features",
        timestep: Timesteps = 50,
        block: Blocks = 6,
        noise: Mapping | None = None,
        source: str = "store",
        dtype: str = "fp16",
        compute: str = "fp32",
        mix: str = "concat",
        batch_size: int = 4096,
        window: int = 131_072,
        strip: int = 64,
        seed: int = 0,
        val_pictures: int | None = None,
        val_fraction: float = 0.05,
        choose_pictures: int | None = 100,
    ) -> None:
        """`backbone`, `dtype` and `compute` are for source="live" only.

        After its tokens a test of labelled pictures walks whole ones: twice `choose_pictures` of
        those that may be learned from (None: all, 0: nothing of this), then the test split.

        Where `dataset` and `checkpoint` are here, a store of other ones is refused.

        `mix` says what several timesteps or blocks are: concat (wider tokens), stack (more tokens).
        Either way they share one grid: maps are never upsampled, other resolutions are refused.
        """
        super().__init__()
        self.origin = Origin(
            source,
            (dataset_name, dataset),
            (backbone_name, backbone, checkpoint),
            root,
            (timestep, block, noise),
            (dtype, compute),
        )
        self.mix, self.strip, self.window = mix, strip, window
        self.batch_size, self.seed = batch_size, seed
        self.val_pictures, self.val_fraction = val_pictures, val_fraction
        counts = {"batch_size": batch_size, "window": window, "strip": strip}
        for key, value in counts.items():
            if value < 1:
                raise UserError(f"data.{key} counts tokens, got {value}: give 1 or more")
        if choose_pictures is not None and choose_pictures < 0:
            raise UserError(
                f"data.choose_pictures must not be negative, got {choose_pictures}: null takes all "
                "training pictures, 0 asks for no concepts"
            )
        self.choose_pictures = choose_pictures
        self.allow_zero_length_dataloader_with_multiple_devices = True  # few pictures, many ranks
        self._measured: Measured | None = None
        self._training: TokenLoader | None = None
        self._resumed: dict = {}

    @property
    def facts(self) -> dict:
        """What a dictionary needs to know: width, mean, scale, and what its dimensions are."""
        pool = self._pool("train", self._pictures()[0])
        if self._measured is None:
            self._measured = measure(pool)
        stream = pool.streams[0]
        own = {"d_in": pool.width, "grid": (stream.height, stream.width), "mix": self.mix}
        names = {"maps": [stream.name for stream in pool.streams]}
        return {**self._source("train").facts, **own, **names, **self._measured._asdict()}

    def setup(self, stage: str | None = None) -> None:
        """Opens what the stage needs, so that what is missing is said before anything starts."""
        self._source("test" if stage == "test" else "train")

    def train_dataloader(self) -> TokenLoader:
        """Shuffled tokens of the pictures to learn from."""
        pool = self._pool("train", self._pictures()[0])
        rank, world = self._part()
        loader = TokenLoader(pool, self.batch_size, self.window, self.seed, rank, world)
        if not len(loader):
            raise UserError(
                f"{pool.units * pool.strip} training tokens fill no batch of {self.batch_size} "
                f"on {world} rank(s): lower data.batch_size"
            )
        if self._resumed:
            loader.go_to(self._resumed)
        self._training = loader
        return loader

    def val_dataloader(self) -> OrderedTokens | list:
        """Tokens of the pictures held out."""
        held = self._pictures()[1]
        return self._whole("train", held) if held else []

    def test_dataloader(self) -> OrderedTokens | list[OrderedTokens | PictureLoader]:
        """Tokens of the test split; then, where there are labels, training and test pictures."""
        tokens = self._whole("test", range(len(self._source("test"))))
        if self.unlabelled:
            return tokens
        count = len(self._source("train"))
        some = permutation(count, 0)[: self.choose_pictures].sort().values.tolist()
        train = self._with_others("train", some)
        return [tokens, train, train, self._with_others("test", range(len(self._source("test"))))]

    @property
    def unlabelled(self) -> str | None:
        """Why no labelled pictures follow the tokens of a test; None where they do."""
        if self.choose_pictures == 0:
            return "data.choose_pictures=0 leaves out the pictures that latents are chosen on"
        if self.mix == "stack" and len(streams := self._source("test").streams) > 1:
            first = streams[0]
            step = "" if first.timestep is None else f" timestep={first.timestep}"
            return (
                f"{len(streams)} maps of each picture are stacked, and masks fit one at a time: "
                f"measure them one by one with evaluate.py{step} block={first.block}"
            )
        sources = [self._source(split) for split in ("train", "test")]
        lacking = [source.facts for source in sources if not source.facts["labelled"]]
        if lacking:
            return f"{lacking[0]['dataset']} has no labels: choose a labelled dataset"
        return None

    def sample(self) -> Iterator[Float[Tensor, "tokens d_in"]]:
        """Training tokens, some at a time: the same at every call and on every rank."""
        pool = self._pool("train", self._pictures()[0])
        units = permutation(pool.units, 0)[: max(1, SHOWN_TOKENS // pool.strip)]
        return (tokens for _, tokens in pool.read(units.sort().values))

    def labelled(self, split: str) -> Iterable[LabelledPicture]:
        """Every picture of a split with its labels, for reports."""
        return PictureLoader(self._source(split), range(len(self._source(split))))

    def seen(self, split: str) -> SeenPictures:
        """The same of pictures that may have none."""
        return SeenPictures(self._source(split))

    def picture(self, split: str, index: int) -> Float[Tensor, "3 height width"] | None:
        """The picture that the backbone looked at, in [-1, 1]; None where it is not here."""
        return self.origin.picture(split, index)

    def picture_name(self, split: str, index: int) -> str:
        """What a person may call it."""
        return self.origin.picture_name(split, index)

    def state_dict(self) -> dict:
        """The training's place; kept here, for Lightning forgets a loader's at an epoch's end."""
        return self._training.place() if self._training else self._resumed

    def load_state_dict(self, state_dict: dict) -> None:
        """The place that the training loader will start from."""
        self._resumed = state_dict

    def _whole(self, split: str, pictures: Sequence[int]) -> OrderedTokens:
        return OrderedTokens(self._pool(split, pictures), self.batch_size, *self._part())

    def _with_others(self, split: str, pictures: Sequence[int]) -> PictureLoader:
        """Pictures of this rank, each with the labels of another one of these pictures."""
        rank, world = self._part()
        others = None
        if len(pictures) > 1:
            others = [pictures[i] for i in exchanged(len(pictures)).tolist()][rank::world]
        return PictureLoader(self._source(split), pictures[rank::world], others)

    def transfer_batch_to_device(
        self, batch: Tensor | LabelledPicture, device: torch.device, dataloader_idx: int
    ) -> Tensor | LabelledPicture:
        """Copies a batch before its place in the ring is reused, without awaiting the GPU."""
        if isinstance(batch, LabelledPicture):
            return batch._replace(maps=batch.maps.to(device))
        if device.type != "cuda" or batch.device == device:
            return batch.to(device)
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            copy = batch.to(device, non_blocking=True)
        stream.synchronize()
        copy.record_stream(torch.cuda.current_stream(device))
        return copy

    def _source(self, split: str) -> Source:
        return self.origin.open(split, self._device())

    def _pictures(self) -> tuple[list[int], list[int]]:
        return hold_out(len(self._source("train")), self.val_pictures, self.val_fraction)

    def _pool(self, split: str, pictures: Sequence[int]) -> Pool:
        source = self._source(split)
        if isinstance(source, LiveSource):
            return LivePool(source, pictures, self.mix, SAMPLE_PICTURES)
        return StoredPool(source, pictures, self.mix, self.strip, SAMPLE_TOKENS)

    def _part(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        if self.trainer is not None:
            return self.trainer.strategy.root_device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
