"""Sources of features: a finished store, or a frozen backbone, behind one interface."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from diffdict.backbones.base import Backbone, Block
from diffdict.checkpoints import check_domain, sha256_at_hand
from diffdict.errors import UserError
from diffdict.features.locations import Blocks, Key, Timesteps, in_order, place
from diffdict.features.noise import Noise
from diffdict.features.normalisation import Normalisation, normalisation
from diffdict.features.passes import COMPUTE, Passes
from diffdict.features.store import FeatureStore, check_pool, store_path
from diffdict.features.store.missing import MissingFeatures
from diffdict.features.store.sealed import read_sealed
from diffdict.features.store.shards import TORCH, Stream


class StoredSource:
    """A split's feature maps from a store, ordered by timestep, then block."""

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
        pool: str | None = None,
        normalisation: Normalisation = Normalisation(),  # noqa: B008 - immutable
    ) -> None:
        """Refuses features made with another `noise`, or whose facts differ from `expect`.

        `pictures`: only that many pictures, the first of the store; None: all of them.
        """
        path = store_path(Path(root), dataset, backbone, split, pool)
        if not (path / "store.json").is_file():
            raise MissingFeatures(
                f"No features of {dataset} ({split}) at {place(timestep, block)} in {root}/. "
                "Make them:",
                timestep,
                block,
                path=path,
                split=split,
            )
        blocks = in_order(block)
        self.store = FeatureStore.open(path, timestep=timestep, block=blocks, expect=expect)
        self._check_noise(noise)
        self.pictures = len(self.store) if pictures is None else min(pictures, len(self.store))
        streams = self.store.streams.values()
        self.normalisation = normalisation
        self.streams = normalisation.streams(each for each in streams if not each.is_label)
        self.dtype = TORCH[self.streams[0].dtype]

    def __len__(self) -> int:
        return self.pictures

    @property
    def facts(self) -> dict:
        """The store's facts: its dataset, backbone, noise and number of pictures."""
        return {**self.store.facts, **self.normalisation.facts, "pictures": len(self)}

    @property
    def noise_levels(self) -> list[float | None]:
        """Of each stream the noise at its timestep, which a store does not say."""
        return [None] * len(self.streams)

    def maps(self, pictures: Sequence[int]) -> list[Shaped[Tensor, "pictures _ _"]]:
        """Every map of these pictures as [pictures, tokens, channels], copied out of the shards."""
        k = self.store.pictures_per_shard
        every = [self.store.tokens(stream.name) for stream in self.streams]
        return [
            self.normalisation(
                torch.stack([shards[picture // k][picture % k] for picture in pictures])
            )
            for shards in every
        ]

    def mask(self, picture: int) -> Shaped[Tensor, "height width"]:
        """The picture's labels."""
        return self.store.mask(picture)

    def label(self, picture: int) -> int:
        """The picture's class."""
        return int(self.store.label(picture))

    def attributes(self, picture: int) -> Float[Tensor, " attributes"]:
        """The picture's attributes; NaN where unknown."""
        return self.store.attributes(picture)

    def read_ahead(self, stream: Stream, shard: int, strips: Iterable[int], tokens: int) -> None:
        """Asks the system to read these strips of `tokens` tokens of a shard from disk."""
        if not hasattr(os, "posix_fadvise"):
            return
        file = self.store.file(stream.name, shard)
        start, size = len(file.header), tokens * file.stream.channels * self.dtype.itemsize
        descriptor = os.open(file.path, os.O_RDONLY)
        try:
            for strip in strips:
                place = start + strip * size
                os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)

    def _check_noise(self, noise: Noise | None) -> None:
        stored = self.store.identity["noise"]
        if noise is None or stored is None or stored == noise.facts():
            return
        raise UserError(
            f"The features in {self.store.path} were made with noise {stored}, "
            f"this run asks for {noise.facts()}: give the same noise.* or another paths.features"
        )


class LiveSource:
    """The same maps from a frozen backbone, computed on demand and not stored."""

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
        normalisation: Normalisation = Normalisation(),  # noqa: B008 - immutable
    ) -> None:
        """`dtype`: of the tokens; `compute`: of the network's matrix products."""
        self.dataset, self.device, self.batch_size = dataset, torch.device(device), batch_size
        self.net, self.dtype = backbone.to(self.device), TORCH[dtype]
        self.passes = Passes(self.net, timestep, block, noise, compute)
        shapes = self._shapes()
        self.normalisation = normalisation
        self.streams = normalisation.streams(
            Stream(*shapes[key[1]], dtype, *key) for key in self.passes.keys
        )

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def facts(self) -> dict:
        """The facts that a store of the same features would have."""
        return {
            **self.dataset.facts,
            **self.normalisation.facts,
            "split": self.dataset.split,
            "pictures": len(self),
            "backbone": self.net.name,
            "backbone_sha256": self.net.sha256,
            "noise": self.passes.noise.facts() if self.net.num_timesteps is not None else None,
        }

    @property
    def noise_levels(self) -> list[float | None]:
        """Of each stream the deviation of the noise at its timestep."""
        return [self.passes.net.noise_level(stream.timestep) for stream in self.streams]

    def maps(self, pictures: Sequence[int]) -> list[Shaped[Tensor, "pictures _ _"]]:
        """Every map of these pictures as [pictures, tokens, channels], a few pictures to a pass."""
        parts = []
        for start in range(0, len(pictures), self.batch_size):
            maps = self._pass(pictures[start : start + self.batch_size]).values()
            parts.append([self.normalisation(x.flatten(2).mT).to(self.dtype) for x in maps])
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def mask(self, picture: int) -> Shaped[Tensor, "height width"]:
        """The picture's labels."""
        return self.dataset[picture]["mask"]

    def label(self, picture: int) -> int:
        """The picture's class."""
        return self.dataset[picture]["label"]

    def attributes(self, picture: int) -> Float[Tensor, " attributes"]:
        """The picture's attributes; NaN where unknown."""
        return self.dataset[picture]["attributes"]

    def _shapes(self) -> dict[Block, tuple[int, int, int]]:
        """The shape of each block's map, measured in a pass if pictures have another size."""
        if self.dataset.image_size == self.net.image_size:
            return self.net.shapes
        first = self.passes.keys[: len(self.passes.blocks)]
        return {block: tuple(x.shape[1:]) for (_, block), x in self._pass([0], first).items()}

    def _pass(
        self, pictures: Sequence[int], wanted: Sequence[Key] | None = None
    ) -> dict[Key, Float[Tensor, "pictures _ _ _"]]:
        """The maps of these pictures: all of them, or those wanted."""
        indices = [int(index) for index in pictures]
        images = torch.stack([self.dataset[index]["image"] for index in indices])
        names = [self.dataset.picture_name(i) for i in indices] if self.net.captioned else None
        return self.passes.maps(images.to(self.device), indices, wanted, names)


Source = StoredSource | LiveSource


class FeatureSources:
    """Opens the features of each split once: its store, or a backbone shared by all splits."""

    def __init__(
        self,
        *,
        dataset: Callable[..., Dataset] | None,
        backbone: Callable[[], Backbone] | Backbone | None,
        dataset_name: str,
        backbone_name: str,
        checkpoint: str | None,
        root: str | Path,
        timestep: Timesteps,
        block: Blocks,
        noise: Mapping | None,
        source: str,
        dtype: str,
        compute: str,
        pool: str | None = None,
        normalise: str = "none",
        drop_channels: Sequence[int] = (),
    ) -> None:
        """`dataset` builds a split and `backbone` the network, each when first needed."""
        if source not in ("store", "live"):
            raise UserError(f"data.source is store or live, got {source!r}")
        for key, value in (("dtype", dtype), ("compute", compute)):
            if value not in COMPUTE:
                kinds = ", ".join(COMPUTE)
                raise UserError(f"data.{key} is one of {kinds}, got {value!r}: data.{key}=fp32")
        self.live, self.root, self.checkpoint = source == "live", root, checkpoint
        self.dataset, self.dataset_name = dataset, dataset_name
        self.backbone, self.backbone_name = backbone, backbone_name
        self.timestep, self.block, self.noise = timestep, block, Noise(**(noise or {}))
        check_pool(pool)
        self.normalisation = normalisation(normalise, drop_channels)
        self.dtype, self.compute, self.pool = dtype, compute, pool
        self.opened: dict[str, Source] = {}
        self._pictures: dict[str, Dataset | None] = {}

    def open(self, split: str, device: torch.device) -> Source:
        """The features of a split; a live backbone runs on `device`."""
        if split not in self.opened:
            self.opened[split] = self._live(split, device) if self.live else self._stored(split)
        return self.opened[split]

    def has(self, split: str) -> bool:
        """Whether a split has features: a store, or a backbone to compute them."""
        path = self._path(split)
        return self.live or (path / "store.json").is_file()

    def pictures(self, split: str) -> Dataset | None:
        """The split's dataset; None if it is not on this machine, where a store suffices."""
        if split not in self._pictures:
            self._pictures[split] = None
            if self.dataset is not None:
                with suppress(UserError):  # the pictures are on another machine
                    self._pictures[split] = self.dataset(split=split)
        return self._pictures[split]

    def _stored(self, split: str) -> StoredSource:
        if self.checkpoint is not None and not self.has(split):
            check_domain(self.checkpoint)  # else the proposed extraction would fail too
        pictures = self.pictures(split)
        return StoredSource(
            self.root,
            self.dataset_name,
            self.backbone_name,
            split,
            timestep=self.timestep,
            block=self.block,
            noise=self.noise,
            expect=self._expected(split),
            pictures=None if pictures is None else len(pictures),
            pool=self.pool,
            normalisation=self.normalisation,
        )

    def _path(self, split: str) -> Path:
        return store_path(self.root, self.dataset_name, self.backbone_name, split, self.pool)

    def _expected(self, split: str) -> dict[str, str]:
        """Hashes of the pictures and weights that are on this machine."""
        expected = {}
        if self.checkpoint is not None and (sha256 := sha256_at_hand(self.checkpoint)):
            expected["backbone_sha256"] = sha256
        if (pictures := self._as_stored(split)) is not None:
            with suppress(UserError):  # some of their files are gone
                expected["dataset_hash"] = pictures.fingerprint
        return expected

    def _as_stored(self, split: str) -> Dataset | None:
        """The split's dataset, with as many pictures as the store holds, if it holds more."""
        pictures, name = self.pictures(split), f"{split}_pictures"
        path = self._path(split)
        if pictures is None or not (path / "store.json").is_file():
            return pictures
        stored, wanted = read_sealed(path / "store.json")["identity"]["pictures"], len(pictures)
        if stored < wanted:
            raise MissingFeatures(
                f"{path} holds the features of {stored} pictures, dataset.{name} asks for "
                f"{wanted}: delete it, then",
                self.timestep,
                self.block,
                ", or choose another paths.features",
                path=path,
            )
        if stored > wanted and name in getattr(self.dataset, "keywords", {}):
            return self.dataset(split=split, **{name: stored})
        return pictures

    def _live(self, split: str, device: torch.device) -> LiveSource:
        if not isinstance(self.backbone, Backbone):  # built once, for all splits
            self.backbone = self.backbone()
        return LiveSource(
            self.dataset(split=split),
            self.backbone,
            timestep=self.timestep,
            block=self.block,
            noise=self.noise,
            dtype=self.dtype,
            compute=self.compute,
            device=device,
            normalisation=self.normalisation,
        )
