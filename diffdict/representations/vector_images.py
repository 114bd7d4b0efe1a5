"""Pictures in batches, each with the vector of a representation: stored, or made beside."""

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import Dataset

from diffdict import files
from diffdict.data.base import Pictures
from diffdict.data.images import ImageDataModule, PictureSample
from diffdict.errors import UserError
from diffdict.features.sources import StoredSource
from diffdict.features.store import store_path
from diffdict.features.store.missing import MissingFeatures
from diffdict.features.store.sealed import read_sealed
from diffdict.representations.base import MIRRORED, VECTOR, Representation

WAYS = ("store", "live")
LIVE_STANDARD = 1024  # so many training pictures tell mean and deviation where none are stored
STEP = 256  # vectors, or pictures, that are taken at once


class Standard(NamedTuple):
    """The mean of each dimension, and one over its deviation; 0 of a dimension without spread."""

    mean: Float[Tensor, " width"]
    scale: Float[Tensor, " width"]


class VectorImages(ImageDataModule):
    """Batches with `vector`; when measuring also `other`, the vector of the picture after it."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        representation: Callable[[], Representation] | Representation,
        vectors: str = "store",
        root: str | Path = "features",
        **images,
    ) -> None:
        """`vectors`: store, as `task=vectors` left them below `root`, or live."""
        super().__init__(dataset, **images)
        if vectors not in WAYS:
            raise UserError(f"data.vectors is {' or '.join(WAYS)}, got {vectors!r}")
        moved = self.crop_padding > 0 or self.zoom > 1
        if vectors == "store" and moved:
            raise UserError(
                "data.crop_padding and data.zoom move pictures away from the vectors stored of "
                "them: data.vectors=live, or leave both out"
            )
        self._build, self.vectors, self.root, self.moved = representation, vectors, root, moved
        self._seen: dict[str, Pictures] = {}
        self._stored: dict[str, StoredSource] = {}

    @cached_property
    def representation(self) -> Representation:
        """What makes the vectors; where they are stored only its facts are asked for."""
        built = self._build if isinstance(self._build, Representation) else self._build()
        if not isinstance(built, Representation):
            raise UserError(
                f"representation= makes vectors of pictures, {type(built).__name__} does not: "
                "representation=pooled looks through any backbone"
            )
        return built

    @property
    def facts(self) -> dict[str, object]:
        """Those of the pictures, and of the vectors."""
        representation = self.representation
        return {
            **super().facts,
            "vector_width": representation.dim,
            "representation": {
                "name": representation.name,
                "sha256": representation.sha256,
                "image_size": representation.image_size,
                "width": representation.dim,
                **self._recipe(),
            },
        }

    def _recipe(self) -> dict[str, str]:
        """The config that builds it, for the weights that learn with it."""
        config = self._build.keywords.get("config") if isinstance(self._build, partial) else None
        if config is None:
            return {}
        plain = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
        return {"recipe": files.json_text(plain, sort_keys=True)}

    def samples(self, split: str, training: bool = False) -> Dataset:
        """Pictures with their vectors, or with what the representation is shown of them."""
        pictures = self.split(split)
        if self.vectors == "store":
            return WithVectors(pictures, source=self._source(split), other=not training)
        views = self.seen(split)
        apart = views.image_size != pictures.image_size
        if apart and self.moved and training:
            raise UserError(
                f"{self.representation.name} is shown pictures of {views.image_size}×"
                f"{views.image_size} of their own, which data.crop_padding and data.zoom do not "
                "move: leave both out, or choose a representation of the same size"
            )
        return WithVectors(pictures, seen=views if apart else None, other=not training)

    def seen(self, split: str) -> Pictures:
        """The same pictures at the size that the representation is shown."""
        if split not in self._seen:
            size, pictures = self.representation.image_size, self.split(split)
            if size not in (None, pictures.image_size):
                pictures = self.make(split=split, image_size=size)
            self._seen[split] = pictures
        return self._seen[split]

    def on_after_batch_transfer(self, batch: Mapping, dataloader_idx: int) -> dict:
        """Every batch has its vectors, on its device."""
        batch = dict(batch)
        if self.vectors == "store":
            batch["vector"] = batch.pop("vectors")[:, 0]
            return batch
        images = batch.pop("seen", batch["image"])
        batch["vector"] = self.look(images, batch["index"])
        if "other" in batch:
            batch["other"] = self.look(batch["other"], batch["index"])
        return batch

    def look(
        self, images: Float[Tensor, "batch 3 side side"], indices: Tensor
    ) -> Float[Tensor, "batch width"]:
        """The vectors of these pictures, made now."""
        vectors = self.representation.to(images.device).vectors(images).float()
        finite = vectors.isfinite().all(1)
        if not bool(finite.all()):
            index = int(indices[~finite][0])
            raise UserError(
                f"The vector of picture {index} by {self.representation.name} is no number: look "
                "at the picture, and at the representation's weights"
            )
        return vectors

    def vectors_of(self, split: str, indices: list[int]) -> Float[Tensor, "n width"]:
        """The vectors of some pictures."""
        if self.vectors == "store":
            return self._source(split).maps(indices)[-1][:, 0].float()
        images = torch.stack([self.seen(split)[index]["image"] for index in indices])
        return self.look(images, torch.tensor(indices))

    @cached_property
    def standard(self) -> Standard:
        """Of the training vectors; where they are live, of the first so many."""
        count = len(self.split("train"))
        count = count if self.vectors == "store" else min(count, LIVE_STANDARD)
        total, squares = 0.0, 0.0
        first = self.vectors_of("train", [0]).double()
        for start in range(0, count, STEP):
            indices = list(range(start, min(start + STEP, count)))
            apart = self.vectors_of("train", indices).double() - first  # near 0, for the squares
            total, squares = total + apart.sum(0), squares + apart.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        flat = deviation <= 1e-6 * (first[0] + mean).abs()
        if bool(flat.any()):
            warnings.warn(
                f"{int(flat.sum())} of {len(flat)} dimensions of {self.representation.name} are "
                f"the same in all training pictures and say nothing: they are left out.",
                stacklevel=2,
            )
        scale = torch.where(flat, 0, 1 / torch.where(flat, 1, deviation))
        return Standard((mean + first[0]).float(), scale.float())

    def _source(self, split: str) -> StoredSource:
        if split not in self._stored:
            self._stored[split] = self._open(split)
        return self._stored[split]

    def _open(self, split: str) -> StoredSource:
        """The stored vectors of these pictures, with their mirror images' where those are due."""
        mirrored = self.flip and split == "train"
        blocks = [VECTOR, MIRRORED] if mirrored else [VECTOR]
        views, net = self.seen(split), self.representation
        as_stored = self._as_stored(split, net.name)
        expect = {"backbone_sha256": net.sha256, "dataset_hash": as_stored.fingerprint}
        try:
            return StoredSource(self.root, views.name, net.name, split, None, blocks, expect=expect)
        except MissingFeatures as missing:
            option = " block=[vector,mirrored]" if mirrored else ""
            raise UserError(
                f"No vectors of {views.name} ({split}) by {net.name} in {self.root}/"
                f"{', with those of mirror images, which data.flip=true asks for' * mirrored}. "
                f"Make them: python extract.py task=vectors{option} with the same representation= "
                "and dataset= — or say data.vectors=live"
            ) from missing

    def _as_stored(self, split: str, name: str) -> Pictures:
        """The pictures as the representation is shown them; as many as are stored, if more."""
        views, count = self.seen(split), f"{split}_pictures"
        path = store_path(Path(self.root), views.name, name, split) / "store.json"
        stored = read_sealed(path)["identity"]["pictures"] if path.is_file() else 0
        if 0 < stored < len(views):
            raise UserError(
                f"{path.parent} holds the vectors of {stored} pictures, there are {len(views)}: "
                f"delete it and make them again, or dataset.{count}={stored}"
            )
        if stored <= len(views) or count not in getattr(self.make, "keywords", {}):
            return views
        return self.make(split=split, image_size=views.image_size, **{count: stored})


class WithVectors(Pictures):
    """Samples of pictures with `vectors` (own, mirrored), or with what is `seen` for one."""

    def __init__(
        self,
        pictures: Pictures,
        source: StoredSource | None = None,
        seen: Pictures | None = None,
        other: bool = False,
    ) -> None:
        """`other`: with the vector of the picture after it, or with that picture."""
        self.pictures, self.source, self.seen, self.other = pictures, source, seen, other
        self.name, self.split, self.image_size = pictures.name, pictures.split, pictures.image_size
        self.fingerprint, self.attributes = pictures.fingerprint, pictures.attributes

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> PictureSample:
        sample, after = dict(self.pictures[index]), (index + 1) % len(self)
        if self.source is not None:
            sample["vectors"] = self._rows(index)
            if self.other:
                sample["other"] = self._rows(after)[0]
            return sample
        if self.seen is not None:
            sample["seen"] = self.seen[index]["image"]
        if self.other:
            sample["other"] = (self.seen or self.pictures)[after]["image"]
        return sample

    def _rows(self, index: int) -> Float[Tensor, "kinds width"]:
        """The vector, then its mirror image's where that is stored."""
        maps = self.source.maps([index])  # in the blocks' order: mirrored comes before vector
        return torch.stack([rows[0, 0].float() for rows in reversed(maps)])
