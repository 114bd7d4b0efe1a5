"""Shuffled tokens for dictionaries: one spatial position of a map is one vector, stored or live."""

import math
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffdict.data.batches.resumable import ResumableLoader
from diffdict.errors import UserError, at_least, command
from diffdict.features.base import FeatureDataModule
from diffdict.features.locations import where
from diffdict.features.sources import LiveSource
from diffdict.features.tokens.moments import Measured, measure_tokens
from diffdict.features.tokens.pool import LivePool, Pool, StoredPool
from diffdict.features.tokens.windows import Windows
from diffdict.features.whole_pictures import LabelledPicture, LabelledPictureLoader, SeenPictures
from diffdict.metrics.concepts.assignment import exchanged
from diffdict.seeds import permutation

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
        self.units = torch.arange(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return math.ceil(len(self.units) * self.pool.strip / self.batch_size)

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        strip = self.pool.strip
        step = math.lcm(self.batch_size, strip) // strip  # units that fill whole batches
        for _, tokens in self.pool.read(self.units, step):
            yield from tokens.split(self.batch_size)


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


class TokenDataModule(FeatureDataModule):
    """Raw tokens, [batch, d_in] in the stored dtype, of a dataset's pictures."""

    def __init__(
        self,
        *,
        mix: str = "concat",
        batch_size: int = 4096,
        window: int = 131_072,
        strip: int = 64,
        seed: int = 0,
        val_pictures: int | None = None,
        val_fraction: float = 0.05,
        choose_pictures: int | None = 100,
        **features: object,
    ) -> None:
        """`features` are the arguments of FeatureDataModule.

        After its tokens a test of labelled pictures walks whole ones: twice `choose_pictures` of
        those that may be learned from (None: all, 0: nothing of this), then the test split.

        `mix` says what several timesteps or blocks are: concat (wider tokens), stack (more tokens).
        Either way they share one grid: maps are never upsampled, other resolutions are refused.
        """
        super().__init__(**features)
        at_least(1, "data", batch_size=batch_size, window=window, strip=strip)
        self.mix, self.strip, self.window = mix, strip, window
        self.batch_size, self.seed = batch_size, seed
        self.val_pictures, self.val_fraction = val_pictures, val_fraction
        if choose_pictures is not None and choose_pictures < 0:
            raise UserError(
                f"data.choose_pictures must not be negative, got {choose_pictures}: null takes all "
                "training pictures, 0 asks for no concepts"
            )
        self.choose_pictures = choose_pictures
        self.allow_zero_length_dataloader_with_multiple_devices = True  # few pictures, many ranks
        self._measured: Measured | None = None

    @property
    def facts(self) -> dict:
        """What a dictionary needs to know: width, mean, scale, and what its dimensions are."""
        pool = self._pool("train", self._pictures()[0])
        if self._measured is None:
            self._measured = measure_tokens(pool)
        stream = pool.streams[0]
        return {
            **self._source("train").facts,
            "d_in": pool.width,
            "grid": (stream.height, stream.width),
            "mix": self.mix,
            "maps": [stream.name for stream in pool.streams],
            **self._measured._asdict(),
        }

    def setup(self, stage: str | None = None) -> None:
        """Opens what the stage needs, so that what is missing is said before anything starts."""
        self._source("test" if stage == "test" else "train")

    def train_dataloader(self) -> TokenLoader:
        """Shuffled tokens of the pictures to learn from."""
        pool = self._pool("train", self._pictures()[0])
        ranks = self._rank_and_world()
        loader = TokenLoader(pool, self.batch_size, self.window, self.seed, *ranks)
        return self._start(loader, f"{pool.units * pool.strip} training tokens")

    def val_dataloader(self) -> OrderedTokens | list:
        """Tokens of the pictures held out."""
        pictures = self._pictures()[1]
        return self._whole("train", pictures) if pictures else []

    def test_dataloader(self) -> OrderedTokens | list[OrderedTokens | LabelledPictureLoader]:
        """Tokens of the test split; then, where there are labels, training and test pictures."""
        tokens = self._whole("test", range(len(self._source("test"))))
        if why := self.unlabelled:
            if self.choose_pictures and self._source("test").facts["labelled"]:
                warnings.warn(f"No class is matched with a latent: {why}", stacklevel=2)
            return tokens
        order = permutation(len(self._source("train")), 0)
        train = self._with_others("train", order[: self.choose_pictures].sort().values.tolist())
        return [tokens, train, train, self._with_others("test", range(len(self._source("test"))))]

    @property
    def unlabelled(self) -> str | None:
        """Why no labelled pictures follow the tokens of a test; None where they do."""
        if self.choose_pictures == 0:
            return "data.choose_pictures=0 leaves out the pictures that latents are chosen on"
        if self.mix == "stack" and len(streams := self._source("test").streams) > 1:
            first = streams[0]
            words = command(*where(first.timestep, first.block))
            return (
                f"{len(streams)} maps of each picture are stacked, and masks fit one at a time: "
                f"measure them one by one with evaluate.py ckpt_path=… {words}"
            )
        for split in ("train", "test"):
            facts = self._source(split).facts
            if not facts["labelled"]:
                return f"{facts['dataset']} has no labels: choose a labelled dataset"
        return None

    def sample(self) -> Iterator[Float[Tensor, "tokens d_in"]]:
        """Training tokens, some at a time: the same at every call and on every rank."""
        pool = self._pool("train", self._pictures()[0])
        units = permutation(pool.units, 0)[: max(1, SHOWN_TOKENS // pool.strip)]
        return (tokens for _, tokens in pool.read(units.sort().values))

    def seen(self, split: str) -> SeenPictures:
        """Every picture of a split, with its labels where it has some."""
        return SeenPictures(self._source(split))

    def _whole(self, split: str, pictures: Sequence[int]) -> OrderedTokens:
        return OrderedTokens(self._pool(split, pictures), self.batch_size, *self._rank_and_world())

    def _with_others(self, split: str, pictures: Sequence[int]) -> LabelledPictureLoader:
        """Pictures of this rank, each with the labels of another one of these pictures."""
        rank, world = self._rank_and_world()
        others = None
        if len(pictures) > 1:
            others = [pictures[i] for i in exchanged(len(pictures)).tolist()][rank::world]
        return LabelledPictureLoader(self._source(split), pictures[rank::world], others)

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

    def _pictures(self) -> tuple[list[int], list[int]]:
        return hold_out(len(self._source("train")), self.val_pictures, self.val_fraction)

    def _pool(self, split: str, pictures: Sequence[int]) -> Pool:
        source = self._source(split)
        if isinstance(source, LiveSource):
            return LivePool(source, pictures, self.mix, SAMPLE_PICTURES)
        return StoredPool(source, pictures, self.mix, self.strip, SAMPLE_TOKENS)
