"""Labelled pixels for segmenters, gathered from native-resolution maps on demand."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64, Integer
from torch import Tensor

from diffdict.bilinear.maps import NativeMaps
from diffdict.data.batches.resumable import ResumableLoader
from diffdict.errors import UserError, at_least
from diffdict.features.base import FeatureDataModule
from diffdict.features.pixels.codes import CodedMaps, PixelMaps
from diffdict.features.whole_pictures import (
    LabelledPicture,
    LabelledPictureLoader,
    check_labelled,
    hold,
)
from diffdict.sae.base import Sae
from diffdict.sae.card import check_tokens, read_dictionary
from diffdict.seeds import permutation

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
        maps: PixelMaps,
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
            places = [orders[i][start : start + self.batch_size] for i in self.drawing]
            yield self.read(
                self.kept[torch.stack(places)] if len(places) > 1 else self.kept[places[0]]
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


class PixelDataModule(FeatureDataModule):
    """Random labelled pixels of the training pictures; whole pictures for validation and test."""

    def __init__(
        self,
        *,
        batch_size: int = 64,
        members: int = 1,
        seed: int = 0,
        val_pictures: int = 0,
        smallest_annotation: int = 20,
        on_device: bool = False,
        alike: bool = False,
        sae: str | None = None,
        **features: object,
    ) -> None:
        """`features` are the arguments of FeatureDataModule.

        The last `val_pictures` training pictures are for validation; `on_device` holds the maps
        on the trainer's device; `alike`: every rank draws the same pixels; `sae`: a dictionary's
        export, run or checkpoint, whose codes then stand for the features.
        """
        super().__init__(**features)
        at_least(1, "data", batch_size=batch_size)
        at_least(0, "data", val_pictures=val_pictures, smallest_annotation=smallest_annotation)
        self.batch_size, self.members, self.seed = batch_size, members, seed
        self.val_pictures, self.smallest_annotation = val_pictures, smallest_annotation
        self.on_device, self.alike, self.sae = on_device, alike, sae
        self._labelled_maps: tuple[PixelMaps, Tensor] | None = None

    @property
    def facts(self) -> dict:
        """What a segmenter needs to know: width, classes, and where the features come from."""
        only_test = self.sources.has("test") and not self.sources.has("train")
        source = self._source("test" if only_test else "train")  # a test alone needs no other
        maps = [stream.name for stream in source.streams]
        width = sum(stream.channels for stream in source.streams)
        facts = {**source.facts, "d_in": width, "maps": maps}
        if self.sae is None:
            return facts
        if self._dictionary.d_in != width:
            raise UserError(other_width(self.sae, self._dictionary.d_in, width, maps))
        codes = {"d_in": self._dictionary.latents, "sae": str(Path(self.sae).absolute())}
        return facts | codes

    @cached_property
    def _dictionary(self) -> Sae:
        sae, card = read_dictionary(self.sae)
        check_tokens(card, self.sources.normalisation.facts, f"data.sae={self.sae}")
        return sae.eval().requires_grad_(False)

    def _encode(self, maps: NativeMaps) -> PixelMaps:
        """The maps as they are, or as the dictionary's codes."""
        device = next(iter(maps.groups.values())).device
        return maps if self.sae is None else CodedMaps(maps, self._dictionary.to(device))

    def setup(self, stage: str | None = None) -> None:
        """Loads the training pictures, once; opens those of a test."""
        if stage == "test":
            self._source("test")
        if stage in ("fit", None) and self._labelled_maps is None:
            self._labelled_maps = self._load()

    def _load(self) -> tuple[PixelMaps, Tensor]:
        """The training pictures' maps, and their labels."""
        source, pictures = self._source("train"), self._pictures()[0]
        check_labelled(source)
        masks = torch.stack([source.mask(index).long() for index in pictures])
        maps = hold(source, pictures, tuple(masks.shape[1:]))
        labels = ignore_small(masks, source.facts["ignore_label"], self.smallest_annotation)
        _check_classes(labels, source.facts)
        return self._encode(maps.to(self._device() if self.on_device else "cpu")), labels

    @property
    def class_pixels(self) -> Int64[Tensor, " classes"]:
        """How many pixels of each class there are to learn from."""
        facts, labels = self._source("train").facts, self._labelled_maps[1]
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
        maps, labels = self._labelled_maps
        ignore, seed = self._source("train").facts["ignore_label"], self.seed
        ranks = (0, 1) if self.alike else self._rank_and_world()
        loader = PixelLoader(maps, labels, ignore, self.batch_size, self.members, seed, *ranks)
        return self._start(loader, f"{len(loader.kept)} labelled pixels")

    def val_dataloader(self) -> LabelledPictureLoader | list:
        """The training pictures held out."""
        return self._whole("train", self._pictures()[1]) if self.val_pictures else []

    def on_after_batch_transfer(
        self, batch: PixelBatch | LabelledPicture, dataloader_idx: int
    ) -> PixelBatch | LabelledPicture:
        """Whole pictures, too, become codes where there is a dictionary."""
        if isinstance(batch, LabelledPicture):
            return batch._replace(maps=self._encode(batch.maps))
        return batch

    def test_dataloader(self) -> LabelledPictureLoader:
        """The test split."""
        return self._whole("test", range(len(self._source("test"))))

    def _whole(self, split: str, pictures: Sequence[int]) -> LabelledPictureLoader:
        rank, world = self._rank_and_world()
        if len(pictures) < world:  # a rank without any would not come to the sum of all figures
            raise UserError(
                f"{self.sources.dataset_name} has {len(pictures)} pictures to measure with "
                f"({split}), fewer than the {world} ranks: trainer.devices={max(1, len(pictures))}"
            )
        return LabelledPictureLoader(self._source(split), pictures[rank::world])


def _count(
    labels: Int64[Tensor, "*pictures"], num_classes: int, ignore_label: int | None
) -> Int64[Tensor, " classes"]:
    """Pixels of each class; of the ignored one there are none."""
    ignored = UNLABELLED if ignore_label is None else ignore_label
    return labels[labels != ignored].bincount(minlength=num_classes)


def other_width(sae: str, theirs: int, ours: int, maps: Sequence[str]) -> str:
    """What is wrong with a dictionary that was learned on tokens of another width."""
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
