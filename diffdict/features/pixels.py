"""Labelled pixels for segmenters, gathered from native-resolution maps on demand."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int, Int64, Integer
from torch import Tensor
from torch.utils.data import Dataset

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.features.coded import CodedMaps, Maps
from diffdict.features.gather import NativeMaps
from diffdict.features.labelled import LabelledPicture, PictureLoader, check_labelled, hold
from diffdict.features.passes import Blocks, Timesteps
from diffdict.features.shuffle import ResumableLoader, permutation
from diffdict.features.sources import Origin, Source
from diffdict.sae import kept
from diffdict.sae.base import Sae

UNLABELLED = -1  # stands for the ignore label in data that has none


class PixelBatch(NamedTuple):
    """Random labelled pixels; with several members, each member's own ones."""

    features: Float[Tensor, "*members batch channels"]
    labels: Int64[Tensor, "*members batch"]


def ignore_small(
    masks: Integer[Tensor, "pictures height width"], ignore_label: int | None, least: int = 20
) -> Int64[Tensor, "pictures height width"]:
    """Labels that ignore a class where it has fewer than `least` pixels (Baranchuk et al. 2022)."""
    ignored = UNLABELLED if ignore_label is None else ignore_label
    labels = masks.long().clone()
    for picture in labels:
        classes, counts = picture.unique(return_counts=True)
        small = classes[(counts < least) & (classes != ignored)]
        picture[torch.isin(picture, small)] = ignored
    return labels


class PixelLoader(ResumableLoader[PixelBatch]):
    """Batches of labelled pixels, in an order of their own for each epoch and member."""

    def __init__(
        self,
        maps: Maps,
        labels: Int64[Tensor, "pictures height width"],
        ignore_label: int | None = None,
        batch_size: int = 64,
        members: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.maps, self.labels = maps, labels.flatten()
        ignored = UNLABELLED if ignore_label is None else ignore_label
        self.kept = (self.labels != ignored).nonzero()[:, 0].int()  # int32: half the memory
        self.batch_size, self.members, self.rank, self.world = batch_size, members, rank, world
        self.drawing = list(range(members))
        plan = {"pixels": len(self.kept), "batch_size": batch_size, "members": members}
        super().__init__(seed, {**plan, "world": world})

    def __len__(self) -> int:
        return len(self.kept) // (self.batch_size * self.world)

    def only(self, members: Sequence[int]) -> None:
        """From the next batch on these members draw, in this order, and no others."""
        self.drawing = list(members)

    def batches(self, epoch: int, taken: int) -> Iterator[PixelBatch]:
        """The batches of an epoch after the first `taken` ones."""
        orders = {
            member: permutation(len(self.kept), self.seed, epoch, member, dtype=torch.int32)
            for member in self.drawing
        }
        for step in range(taken, len(self)):
            start = (step * self.world + self.rank) * self.batch_size
            drawn = [orders[i][start : start + self.batch_size] for i in self.drawing]
            yield self.read(
                self.kept[torch.stack(drawn)] if len(drawn) > 1 else self.kept[drawn[0]]
            )

    def read(self, place: Int[Tensor, "*members batch"]) -> PixelBatch:
        """The pixels at these places of the flattened labels."""
        height, width = self.maps.size
        place = place.long()
        pixel = place.flatten() % (height * width)
        picture = place.flatten() // (height * width)
        features = self.maps.gather(picture, pixel // width, pixel % width)
        labels = self.labels[place].to(features.device)
        return PixelBatch(features.view(*place.shape, -1), labels)


class PixelDataModule(pl.LightningDataModule):
    """Random labelled pixels of the training pictures; whole pictures for validation and test."""

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
        batch_size: int = 64,
        members: int = 1,
        seed: int = 0,
        val_pictures: int = 0,
        smallest_annotation: int = 20,
        on_device: bool = False,
        alike: bool = False,
        sae: str | None = None,
    ) -> None:
        """`backbone`, `dtype` and `compute` are for source="live" only.

        Where `dataset` and `checkpoint` are here, a store of other ones is refused.

        The last `val_pictures` training pictures are for validation; `on_device` holds the maps
        on the trainer's device; `alike`: every rank draws the same pixels; `sae`: a dictionary's
        export, run or checkpoint, whose codes then stand for the features.
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
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("val_pictures", val_pictures, 0),
            ("smallest_annotation", smallest_annotation, 0),
        ):
            if value < least:
                raise UserError(f"data.{key} is at least {least}, got {value}: data.{key}={least}")
        self.batch_size, self.members, self.seed = batch_size, members, seed
        self.val_pictures, self.smallest_annotation = val_pictures, smallest_annotation
        self.on_device, self.alike, self.sae = on_device, alike, sae
        self._held: tuple[Maps, Tensor] | None = None
        self._training: PixelLoader | None = None
        self._resumed: dict = {}

    @property
    def facts(self) -> dict:
        """What a segmenter needs to know: width, classes, and where the features come from."""
        train = self._source("train")
        width = sum(stream.channels for stream in train.streams)
        own = {"d_in": width, "maps": [stream.name for stream in train.streams]}
        if self.sae is not None:
            if self._dictionary.d_in != width:
                raise UserError(_other_width(self.sae, self._dictionary.d_in, width, own["maps"]))
            own |= {"d_in": self._dictionary.latents, "sae": str(Path(self.sae).absolute())}
        return {**train.facts, **own}

    @cached_property
    def _dictionary(self) -> Sae:
        return kept.load(self.sae).sae.eval().requires_grad_(False)

    def _seen(self, maps: NativeMaps) -> Maps:
        """Features as they are, or as the dictionary sees them."""
        device = next(iter(maps.groups.values())).device
        return maps if self.sae is None else CodedMaps(maps, self._dictionary.to(device))

    def _source(self, split: str) -> Source:
        return self.origin.open(split, self._device())

    def setup(self, stage: str | None = None) -> None:
        """Holds the training pictures, once."""
        if stage in ("fit", None) and self._held is None:
            self._held = self._hold()

    def _hold(self) -> tuple[Maps, Tensor]:
        source, pictures = self._source("train"), self._pictures()[0]
        check_labelled(source)
        masks = torch.stack([source.mask(index).long() for index in pictures])
        maps = hold(source, pictures, tuple(masks.shape[1:]))
        labels = ignore_small(masks, source.facts["ignore_label"], self.smallest_annotation)
        _check_classes(labels, source.facts)
        return self._seen(maps.to(self._device() if self.on_device else "cpu")), labels

    @property
    def class_pixels(self) -> Int64[Tensor, " classes"]:
        """How many pixels of each class there are to learn from."""
        facts, labels = self._source("train").facts, self._held[1]
        return _count(labels, facts["num_classes"], facts["ignore_label"])

    def _pictures(self) -> tuple[list[int], list[int]]:
        """Training pictures and validation pictures."""
        count = len(self._source("train"))
        if not 0 <= self.val_pictures < count:
            raise UserError(
                f"data.val_pictures must leave training pictures: {self.val_pictures} of {count}, "
                f"give {count - 1} at most"
            )
        split = count - self.val_pictures
        return list(range(split)), list(range(split, count))

    def train_dataloader(self) -> PixelLoader:
        """Random pixels."""
        maps, labels = self._held
        ignore, seed = self._source("train").facts["ignore_label"], self.seed
        rank, world = (0, 1) if self.alike else self._part()
        loader = PixelLoader(maps, labels, ignore, self.batch_size, self.members, seed, rank, world)
        if not len(loader):
            raise UserError(
                f"{len(loader.kept)} labelled pixels fill no batch of {self.batch_size} "
                f"on {world} rank(s): lower data.batch_size"
            )
        if self._resumed:
            loader.go_to(self._resumed)
        self._training = loader
        return loader

    def val_dataloader(self) -> PictureLoader | list:
        """The training pictures held out."""
        return self._whole("train", self._pictures()[1]) if self.val_pictures else []

    def on_after_batch_transfer(
        self, batch: PixelBatch | LabelledPicture, dataloader_idx: int
    ) -> PixelBatch | LabelledPicture:
        """Whole pictures, too, are seen by the dictionary where there is one."""
        if isinstance(batch, LabelledPicture):
            return batch._replace(maps=self._seen(batch.maps))
        return batch

    def test_dataloader(self) -> PictureLoader:
        """The test split."""
        return self._whole("test", range(len(self._source("test"))))

    def labelled(self, split: str) -> Iterable[LabelledPicture]:
        """Every picture of a split with its labels, for reports."""
        return PictureLoader(self._source(split), range(len(self._source(split))))

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

    def _whole(self, split: str, pictures: Sequence[int]) -> PictureLoader:
        rank, world = self._part()
        if len(pictures) < world:  # a rank without any would not come to the sum of all figures
            raise UserError(
                f"{self.origin.dataset_name} has {len(pictures)} pictures to measure with ({split})"
                f", fewer than the {world} ranks: trainer.devices={max(1, len(pictures))}"
            )
        return PictureLoader(self._source(split), pictures[rank::world])

    def _part(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        if self.trainer is not None:
            return self.trainer.strategy.root_device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _count(
    labels: Int64[Tensor, "*pictures"], num_classes: int, ignore_label: int | None
) -> Int64[Tensor, " classes"]:
    """Pixels of each class; of the ignored one there are none."""
    ignored = UNLABELLED if ignore_label is None else ignore_label
    return labels[labels != ignored].bincount(minlength=num_classes)


def _other_width(sae: str, theirs: int, ours: int, maps: Sequence[str]) -> str:
    return (
        f"data.sae={sae} was learned on tokens of width {theirs}, pixels of {', '.join(maps)} have "
        f"{ours}: give the timestep= and block= that it was learned on"
    )


def _check_classes(labels: Int64[Tensor, "*pictures"], facts: Mapping) -> None:
    """Refuses pictures without a label; says which classes nothing can be learned of."""
    ignored, names = facts["ignore_label"], facts["class_names"]
    pixels = _count(labels, len(names), ignored).tolist()
    if not any(pixels):
        raise UserError(
            f"The training pictures of {facts['dataset']} ({facts['pictures']}) hold no labelled "
            f"pixel: all are the ignored label, or of classes with fewer than "
            f"data.smallest_annotation pixels"
        )
    absent = [names[i] for i, count in enumerate(pixels) if not count and i != ignored]
    if absent:
        warnings.warn(
            f"No training pixel is {', '.join(absent)}: what is never seen can only score 0.",
            stacklevel=2,
        )
