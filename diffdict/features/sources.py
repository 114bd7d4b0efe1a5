"""Where features come from: a finished store, or the frozen backbone at work; one interface."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffdict.errors import UserError
from diffdict.features.shards import MASK, TORCH
from diffdict.features.shuffle import mix
from diffdict.features.store import FeatureStore

Steps = int | Sequence[int] | None
Blocks = int | str | Sequence[int | str] | None  # None or "all": every block
Noise = Mapping[str, bool | int]  # shared, seed, draws


class StoredSource:
    """A split's features as extract.py left them in <root>/<dataset>/<backbone>/<split>."""

    def __init__(
        self,
        root: str | Path,
        dataset: str,
        backbone: str,
        split: str,
        timestep: Steps,
        block: Blocks,
        noise: Noise | None = None,
    ) -> None:
        self.root, self.asked = Path(root), (dataset, split, timestep, block)
        path = self.root / dataset / backbone / split
        if not (path / "store.json").is_file():
            raise UserError(self._absent())
        steps, blocks = listed(timestep), in_order(block)
        self.store = FeatureStore.open(path, timestep=steps, block=blocks)
        self._check_noise(noise)
        self.streams = [stream for stream in self.store.streams.values() if stream.block != MASK]
        self.names = [stream.name for stream in self.streams]
        self.shapes = [(stream.channels, stream.height, stream.width) for stream in self.streams]
        self.dtype = TORCH[self.streams[0].dtype]

    def __len__(self) -> int:
        return len(self.store)

    @property
    def facts(self) -> dict:
        """What the store says of itself."""
        return self.store.facts

    def maps(self, pictures: Sequence[int]) -> list[Shaped[Tensor, "pictures tokens channels"]]:
        """Every map of these pictures, copied out of the mapped shards."""
        k = self.store.pictures_per_shard
        return [
            torch.stack([shards[picture // k][picture % k] for picture in pictures])
            for shards in map(self.store.tokens, self.names)
        ]

    def mask(self, picture: int) -> Shaped[Tensor, "height width"]:
        """The picture's labels."""
        return self.store.mask(picture)

    def read_ahead(self, name: str, shard: int, strips: Iterable[int], tokens: int) -> None:
        """Asks the system to fetch these strips of `tokens` tokens of a shard from the disk."""
        if not hasattr(os, "posix_fadvise"):
            return
        file = self.store.file(name, shard)
        size = tokens * file.stream.channels * self.dtype.itemsize
        start = len(file.header)
        descriptor = os.open(file.path, os.O_RDONLY)
        try:
            for strip in strips:
                place = start + strip * size
                os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)

    def _check_noise(self, noise: Noise | None) -> None:
        stored = self.store.identity["noise"]
        if noise is None or stored is None or dict(stored) == dict(noise):
            return
        raise UserError(
            f"The features in {self.store.path} were made with noise {dict(stored)}, "
            f"this run asks for {dict(noise)}: give the same noise.* or another paths.features"
        )

    def _absent(self) -> str:
        dataset, split, timestep, block = self.asked
        step = "" if timestep is None else f"timestep {spoken(timestep)}, "
        command = "" if timestep is None else f" timestep={typed(timestep)}"
        return (
            f"No features of {dataset} ({split}) at {step}block {spoken(block)} in {self.root}/. "
            f"Make them: python extract.py dataset={dataset}{command} block={typed(block)}"
        )


class LiveSource:
    """The same maps from a frozen backbone, computed when asked for and not kept."""

    def __init__(
        self,
        dataset: Dataset,
        backbone: nn.Module | Callable[[], nn.Module],
        timestep: Steps,
        block: Blocks,
        noise: Noise | None = None,
        dtype: str = "fp16",
        device: torch.device | str = "cpu",
        batch_size: int = 8,
    ) -> None:
        """`dtype` is that of the tokens; the network computes in the precision of its weights."""
        self.dataset, self.device, self.batch_size = dataset, torch.device(device), batch_size
        self.net = backbone if isinstance(backbone, nn.Module) else backbone()
        self.net.eval().requires_grad_(False).to(self.device)
        steps = listed(timestep) if self.net.num_timesteps is not None else None
        self.steps = steps or [None]
        self.blocks = self.net.chosen(in_order(block))
        self.noise = {"shared": True, "seed": 0, "draws": 1, **(noise or {})}
        self.dtype = TORCH[dtype]
        self.names = [label(step, name) for step in self.steps for name in self.blocks]
        self.shapes = self._shapes()

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def facts(self) -> dict:
        """What a store of the same features would say."""
        names = ("split", "image_size", "num_classes", "class_names", "palette", "ignore_label")
        own = {name: getattr(self.dataset, name, None) for name in names}
        return {
            **own,
            "dataset": self.dataset.name,
            "backbone": self.net.name,
            "backbone_sha256": self.net.sha256,
            "noise": dict(self.noise),
        }

    def maps(self, pictures: Sequence[int]) -> list[Shaped[Tensor, "pictures tokens channels"]]:
        """Every map of these pictures, a few pictures to a pass."""
        step = self.batch_size
        parts = [self._pass(pictures[i : i + step]) for i in range(0, len(pictures), step)]
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def mask(self, picture: int) -> Shaped[Tensor, "height width"]:
        """The picture's labels."""
        return self.dataset[picture]["mask"]

    def _shapes(self) -> list[tuple[int, int, int]]:
        if self.dataset.image_size == self.net.image_size:
            return [tuple(self.net.shapes[name]) for name in self.blocks] * len(self.steps)
        blocks = self._features(self.dataset[0]["image"][None].to(self.device), self.steps[0], [0])
        return [tuple(blocks[name].shape[1:]) for name in self.blocks] * len(self.steps)

    @torch.no_grad()
    def _pass(self, pictures: Sequence[int]) -> list[Tensor]:
        images = torch.stack([self.dataset[int(i)]["image"] for i in pictures]).to(self.device)
        found = []
        for step in self.steps:
            blocks = self._features(images, step, pictures)
            found += [blocks[name].flatten(2).mT.to(self.dtype) for name in self.blocks]
        return found

    def _features(
        self, images: Tensor, step: int | None, pictures: Sequence[int]
    ) -> dict[int | str, Tensor]:
        """The blocks at one timestep, averaged over the draws of noise."""
        if step is None:
            return self.net.features(images, None, self.blocks)
        draws = self.noise["draws"]
        total: dict[int | str, Tensor] = {}
        for draw in range(draws):
            noise = draw_noise(self.noise, draw, pictures, images.shape[1:]).to(self.device)
            found = self.net.features(images, step, self.blocks, noise)
            total = {name: total.get(name, 0) + x for name, x in found.items()}
        return {name: x / draws for name, x in total.items()}


Source = StoredSource | LiveSource


def draw_noise(
    noise: Noise, draw: int, pictures: Sequence[int], shape: Sequence[int]
) -> Float[Tensor, "..."]:
    """The noise of these pictures: one tensor for all when shared, else by each picture's index."""
    owners = [None] if noise["shared"] else pictures
    seeds = [noise["seed"] if i is None else mix(noise["seed"], int(i)) for i in owners]
    if draw:
        seeds = [mix(seed, draw) for seed in seeds]
    drawn = [torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(drawn)


def listed(value: int | str | Sequence | None) -> list | None:
    """One or several things asked for, as a list; None stays None."""
    if value is None:
        return None
    return [value] if isinstance(value, (int, str)) else list(dict.fromkeys(value))


def in_order(block: Blocks) -> list[int | str] | None:
    """The blocks ascending; None for all of them."""
    blocks = listed(block)
    if blocks is None or blocks == ["all"]:
        return None
    return sorted(blocks, key=lambda name: (isinstance(name, str), name))


def label(step: int | None, block: int | str) -> str:
    """The name of a map, as a store would call it."""
    short = f"b{block:02d}" if isinstance(block, int) else block
    return short if step is None else f"t{step:04d}-{short}"


def spoken(value: int | str | Sequence | None) -> str:
    """For a sentence: 5, 6."""
    return ", ".join(map(str, listed(value) or ["all"]))


def typed(value: int | str | Sequence | None) -> str:
    """For a command line: [5,6]."""
    names = ",".join(map(str, listed(value) or ["all"]))
    return f"[{names}]" if "," in names else names
