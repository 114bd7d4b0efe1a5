"""A frozen network by its record beside kept features: it is built when it has to look.

The record says which config and weights it had, its blocks and its timesteps; another network is
refused.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.checkpoints import sha256_at_hand
from diffdict.features.store.sealed import StoreError, differences, read_sealed, write_once

RECORD = "network.json"


def open_network(config: Mapping, keep: bool, folder: str, source: str = "live") -> Backbone | None:
    """The network of a config; with `keep` by its record in this folder; None beside a store."""
    if source != "live":
        return None
    if keep:
        return RecordedNetwork(config, folder)
    return instantiate(config, _convert_="all")


class RecordedNetwork(Backbone):
    """The same features, by a network that is built for the first of them.

    Where there is no record yet, or the config names no file of weights that could be compared,
    it is built at once.
    """

    def __init__(self, config: Mapping, folder: str | Path) -> None:
        super().__init__()
        self.config, self.folder = config, Path(folder)
        self.built: Backbone | None = None
        path, settings = self.folder / RECORD, dict(_settings(config))
        record = read_sealed(path) if path.is_file() else None
        if record is None or not any(file is not None for file in _files(config)):
            self.built = self._build()
            settings |= {"sha256": self.built.sha256}
        if record is not None:
            stored = dict(record["config"])
            stored |= {"sha256": record["network"]["sha256"]} if "sha256" in settings else {}
            self._check(stored, settings)
        settings.pop("sha256", None)
        self.record = record or {"config": settings, "network": _facts(self.built)}
        facts = self.record["network"]
        self.name, self.image_size = facts["name"], facts["image_size"]
        self.shapes = {block: tuple(shape) for block, shape in facts["shapes"]}
        self.num_timesteps, self.first_timestep = facts["num_timesteps"], facts["first_timestep"]

    @property
    def sha256(self) -> str:
        """That of the network."""
        return self.record["network"]["sha256"]

    def noise_level(self, timestep: int | None) -> float | None:
        """That of the network."""
        levels = self.record["network"]["noise_levels"]
        return (
            None if timestep is None or levels is None else levels[timestep - self.first_timestep]
        )

    def noise_shape(self, picture: tuple[int, int, int]) -> tuple[int, int, int]:
        """That of the network."""
        return self.network.noise_shape(picture)

    @property
    def captioned(self) -> bool:
        """Whether the network is."""
        return self.network.captioned

    def of_pictures(self, names: Sequence[str] | None) -> AbstractContextManager[None]:
        """Tells the network."""
        return self.network.of_pictures(names)

    def prepared(
        self, images: Float[Tensor, "batch _ height width"]
    ) -> Float[Tensor, "batch _ _ _"]:
        """What the network makes of them."""
        return self.network.to(images.device).prepared(images)

    def features(
        self,
        images: Float[Tensor, "batch _ height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """What the network sees."""
        return self.network.to(images.device).features(images, timestep, blocks, noise)

    @property
    def network(self) -> Backbone:
        """The network itself."""
        if self.built is None:
            self.built = self._build()
            if self.built.sha256 != self.sha256:
                self._check({"sha256": self.sha256}, {"sha256": self.built.sha256})
        return self.built

    def keep_record(self) -> None:
        """Writes the record, if there is none."""
        write_once(self.folder / RECORD, self.record)

    def _build(self) -> Backbone:
        net = instantiate(self.config, _convert_="all").requires_grad_(False).eval()
        return net.to(memory_format=torch.channels_last)

    def _check(self, stored: Mapping, config: Mapping) -> None:
        if stored != config:
            raise StoreError(
                f"The features kept in {self.folder} are of another network: "
                f"{differences(stored, config)}. Give this one a name of its own (backbone.name=), "
                "choose another folder (paths.features=), or delete that one."
            )


def _leaves(config: Mapping, place: str = "") -> Iterator[tuple[str, object]]:
    """Every setting under its dotted name."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _settings(config: Mapping) -> Iterator[tuple[str, object]]:
    """What makes a network what it is; of files of weights their hashes, wherever they lie."""
    for (key, value), file in zip(_leaves(config), _files(config), strict=True):
        yield key, value if file is None else file


def _files(config: Mapping) -> list[str | None]:
    """Of every setting the hash of the weights that it names, where they are on this machine."""
    return [
        sha256_at_hand(value) if isinstance(value, str) and value else None
        for _, value in _leaves(config)
    ]


def _facts(net: Backbone) -> dict[str, object]:
    """What is asked of a network beside its features."""
    steps, first = net.num_timesteps, net.first_timestep
    levels = [net.noise_level(first + step) for step in range(steps or 0)]
    return {
        "name": net.name,
        "sha256": net.sha256,
        "image_size": net.image_size,
        "shapes": [[block, list(shape)] for block, shape in net.shapes.items()],
        "num_timesteps": steps,
        "first_timestep": first,
        "noise_levels": [x if x is not None and math.isfinite(x) else None for x in levels],
    }
