"""Where features come from: a finished store, or the frozen backbone at work; one interface."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from diffdict.backbones.base import Backbone, Block
from diffdict.checkpoints import sha256_at_hand
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.passes import (
    COMPUTE,
    Blocks,
    Key,
    Passes,
    Timesteps,
    extraction,
    in_order,
    place,
)
from diffdict.features.sealed import read_sealed
from diffdict.features.shards import MASK, TORCH, Stream
from diffdict.features.store import FeatureStore, store_path


class StoredSource:
    """A split's maps in timestep-then-block order, as extract.py left them."""

    def __init__(
        self,
        root: str | Path,
        dataset: str,
        backbone: str,
        split: str,
        timestep: Timesteps,
        block: Blocks,
        noise: Noise | None = None,
        expect: Mapping | None = None,
        pictures: int | None = None,
    ) -> None:
        """Features made with another `noise`, or of other facts than `expect`, are refused.

        `pictures`: so many first ones of the store; None: all.
        """
        path = store_path(Path(root), dataset, backbone, split)
        if not (path / "store.json").is_file():
            raise UserError(
                f"No features of {dataset} ({split}) at {place(timestep, block)} in {root}/. "
                f"Make them: {extraction(dataset, backbone, timestep, block)}"
            )
        blocks = in_order(block)
        self.store = FeatureStore.open(path, timestep=timestep, block=blocks, expect=expect)
        self._check_noise(noise)
        self.pictures = len(self.store) if pictures is None else min(pictures, len(self.store))
        streams = self.store.streams.values()
        self.streams = [stream for stream in streams if stream.block != MASK]
        self.dtype = TORCH[self.streams[0].dtype]

    def __len__(self) -> int:
        return self.pictures

    @property
    def facts(self) -> dict:
        """What the store says of itself."""
        return {**self.store.facts, "pictures": len(self)}

    def maps(self, pictures: Sequence[int]) -> list[Shaped[Tensor, "pictures _ _"]]:
        """Every map of these pictures as [pictures, tokens, channels], copied out of the shards."""
        k = self.store.pictures_per_shard
        every = [self.store.tokens(stream.name) for stream in self.streams]
        return [
            torch.stack([shards[picture // k][picture % k] for picture in pictures])
            for shards in every
        ]

    def mask(self, picture: int) -> Shaped[Tensor, "height width"]:
        """The picture's labels."""
        return self.store.mask(picture)

    def read_ahead(self, stream: Stream, shard: int, strips: Iterable[int], tokens: int) -> None:
        """Asks the system to fetch these strips of `tokens` tokens of a shard from the disk."""
        if not hasattr(os, "posix_fadvise"):
            return
        file = self.store.file(stream.name, shard)
        start, size = len(file.header), tokens * stream.channels * self.dtype.itemsize
        descriptor = os.open(file.path, os.O_RDONLY)
        try:
            for strip in strips:
                place = start + strip * size
                os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)

    def _check_noise(self, noise: Noise | None) -> None:
        stored = self.store.identity["noise"]
        if noise is None or stored is None or stored == noise._asdict():
            return
        raise UserError(
            f"The features in {self.store.path} were made with noise {stored}, "
            f"this run asks for {noise._asdict()}: give the same noise.* or another paths.features"
        )


class LiveSource:
    """The same maps from a frozen backbone, computed when asked for and not kept."""

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        timestep: Timesteps,
        block: Blocks,
        noise: Noise = Noise(),  # noqa: B008 - immutable
        dtype: str = "fp16",
        compute: str = "fp32",
        device: torch.device | str = "cpu",
        batch_size: int = 8,
    ) -> None:
        """`dtype` is that of the tokens, `compute` that of the network's matrix products."""
        if dtype not in COMPUTE:
            raise UserError(f"data.dtype is one of {', '.join(COMPUTE)}, got {dtype}")
        self.dataset, self.device, self.batch_size = dataset, torch.device(device), batch_size
        self.net, self.dtype = backbone.to(self.device), TORCH[dtype]
        self.passes = Passes(self.net, timestep, block, noise, compute)
        shapes = self._shapes()
        self.streams = [Stream(*shapes[key[1]], dtype, *key) for key in self.passes.keys]

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def facts(self) -> dict:
        """What a store of the same features would say."""
        names = ("split", "image_size", "num_classes", "class_names", "palette", "ignore_label")
        own = {name: getattr(self.dataset, name) for name in (*names, "labelled")}
        return {
            **own,
            "dataset": self.dataset.name,
            "pictures": len(self),
            "backbone": self.net.name,
            "backbone_sha256": self.net.sha256,
            "noise": self.passes.noise._asdict() if self.net.num_timesteps is not None else None,
        }

    def maps(self, pictures: Sequence[int]) -> list[Shaped[Tensor, "pictures _ _"]]:
        """Every map of these pictures as [pictures, tokens, channels], a few pictures to a pass."""
        starts = range(0, len(pictures), self.batch_size)
        parts = [self._pass(pictures[i : i + self.batch_size]) for i in starts]
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def mask(self, picture: int) -> Shaped[Tensor, "height width"]:
        """The picture's labels."""
        return self.dataset[picture]["mask"]

    def _shapes(self) -> dict[Block, tuple[int, int, int]]:
        """Of every block: the network's own, or seen in one pass over pictures of another size."""
        if self.dataset.image_size == self.net.image_size:
            return self.net.shapes
        first = self.passes.keys[: len(self.passes.blocks)]
        return {block: tuple(x.shape[1:]) for (_, block), x in self._see([0], first).items()}

    def _pass(self, pictures: Sequence[int]) -> list[Tensor]:
        return [x.flatten(2).mT.to(self.dtype) for x in self._see(pictures).values()]

    def _see(
        self, pictures: Sequence[int], wanted: Sequence[Key] | None = None
    ) -> dict[Key, Tensor]:
        """What the backbone is asked for of these pictures."""
        indices = [int(index) for index in pictures]
        images = torch.stack([self.dataset[index]["image"] for index in indices])
        return self.passes.maps(images.to(self.device), indices, wanted)


Source = StoredSource | LiveSource


class Origin:
    """Opens the features of any split, once: what the data modules of tokens and pixels share."""

    def __init__(
        self,
        source: str,
        pictures: tuple[str, Callable[..., Dataset] | None],
        backbone: tuple[str, Callable[[], Backbone] | Backbone | None, str | None],
        root: str | Path,
        asked: tuple[Timesteps, Blocks, Mapping | None],
        precision: tuple[str, str],
    ) -> None:
        """Pictures and backbone by name, and made on demand; the backbone's checkpoint beside it.

        `asked` is timestep, block, noise; `precision` is dtype and compute, those of LiveSource.
        """
        if source not in ("store", "live"):
            raise UserError(f"data.source is store or live, got {source!r}")
        self.live, self.root, self.precision = source == "live", root, precision
        self.dataset_name, self.dataset = pictures
        self.backbone_name, self.backbone, self.checkpoint = backbone
        self.timestep, self.block = asked[:2]
        self.noise = Noise(**(asked[2] or {}))
        self.opened: dict[str, Source] = {}
        self._pictures: dict[str, Dataset | None] = {}

    def open(self, split: str, device: torch.device) -> Source:
        """The features of a split; a live backbone works on `device`."""
        if split not in self.opened:
            self.opened[split] = self._live(split, device) if self.live else self._stored(split)
        return self.opened[split]

    def picture(self, split: str, index: int) -> Float[Tensor, "3 height width"] | None:
        """The picture that the backbone looked at, in [-1, 1]; None where it is not here."""
        pictures = self.pictures(split)
        return None if pictures is None else pictures[index]["image"]

    def picture_name(self, split: str, index: int) -> str:
        """What its dataset calls it, or its number where the dataset is not here."""
        pictures = self.pictures(split)
        return f"{split}/{index:05d}" if pictures is None else pictures.picture_name(index)

    def pictures(self, split: str) -> Dataset | None:
        """The split's dataset: a store is of use without it too."""
        if split not in self._pictures:
            self._pictures[split] = None
            if self.dataset is not None:
                with suppress(UserError):  # the pictures stayed on another machine
                    self._pictures[split] = self.dataset(split=split)
        return self._pictures[split]

    def _stored(self, split: str) -> StoredSource:
        names = self.dataset_name, self.backbone_name
        asked = self.timestep, self.block, self.noise
        pictures = self.pictures(split)
        first = None if pictures is None else len(pictures)
        return StoredSource(self.root, *names, split, *asked, self._expected(split), first)

    def _expected(self, split: str) -> dict[str, str]:
        """Hashes of the pictures and weights that lie here."""
        expected = {}
        if self.checkpoint is not None and (sha256 := sha256_at_hand(self.checkpoint)):
            expected["backbone_sha256"] = sha256
        if (pictures := self._as_stored(split)) is not None:
            with suppress(UserError):  # some of their files are gone
                expected["dataset_hash"] = pictures.fingerprint
        return expected

    def _as_stored(self, split: str) -> Dataset | None:
        """The split's dataset, with as many pictures as the store has: it serves their first n."""
        pictures, name = self.pictures(split), f"{split}_pictures"
        path = store_path(self.root, self.dataset_name, self.backbone_name, split)
        if pictures is None or not (path / "store.json").is_file():
            return pictures
        held, asked = read_sealed(path / "store.json")["identity"]["pictures"], len(pictures)
        if held < asked:
            raise UserError(
                f"{path} holds the features of {held} pictures, dataset.{name} asks for {asked}: "
                f"delete it, then python extract.py dataset={self.dataset_name} "
                f"dataset.{name}={asked}, or choose another paths.features"
            )
        if held > asked and name in getattr(self.dataset, "keywords", {}):
            return self.dataset(split=split, **{name: held})
        return pictures

    def _live(self, split: str, device: torch.device) -> LiveSource:
        if not isinstance(self.backbone, Backbone):  # built once, for all splits
            self.backbone = self.backbone()
        asked = self.timestep, self.block, self.noise
        dataset = self.dataset(split=split)
        return LiveSource(dataset, self.backbone, *asked, *self.precision, device=device)
