"""Pictures in batches with the classes that are true of each; some of them are held out."""

import bisect
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Shaped, UInt8
from torch import Tensor

from diffdict.data.attributes import asked_columns, asked_facts, mirror_attributes, with_twins
from diffdict.data.base import Pictures, PictureSample
from diffdict.data.batches.augmented import Augmented
from diffdict.data.images import EvaluationLoader, ImageDataModule, TrainingLoader
from diffdict.data.subsets.label_share import check_label_share, share_of_labels
from diffdict.errors import UserError, at_least
from diffdict.features.pooled import (
    check_classes_seen,
    class_row,
    presence_row,
    resolve_target,
)
from diffdict.features.sources import FeatureSources
from diffdict.features.stored_pictures import StoredPictures


class KeptPart(NamedTuple):
    """Pictures whose pooled features are kept together: of a split, of training in one epoch."""

    split: str
    epoch: int | None = None  # None: as they are, not trained on

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.split if self.epoch is None else f"{self.split}-{self.epoch:04d}"


class KeptFolder(NamedTuple):
    """Where the features of several parts are kept."""

    path: Path

    def has(self, part: KeptPart) -> bool:
        """Whether this part is whole: it gets its name at once."""
        return (self.path / part.name / "store.json").is_file()


class EveryPart(NamedTuple):
    """That of a store, whose pictures are the same in every epoch."""

    def has(self, part: KeptPart) -> bool:
        """It is there."""
        return True


class ProbedPictures(Pictures):
    """Some pictures of a split; what is true of each stands in `truth`, a number a class.

    Batches of a part whose features are `kept` bring the truth alone.
    """

    kept: KeptFolder | EveryPart | None = None
    copies: int | None = None  # of the training pictures, that come round epoch after epoch

    def __init__(
        self,
        pictures: Pictures,
        places: Sequence[int],
        target: str,
        least_pixels: int,
        split: str,
        columns: Sequence[int] = (),
    ) -> None:
        """`places`: the numbers of those that come, rising."""
        self.pictures, self.places, self.target, self.least = pictures, places, target, least_pixels
        self.name, self.split, self.image_size = pictures.name, split, pictures.image_size
        self.known, self.asked = pictures.facts, len(columns)
        self.columns = with_twins(columns, pictures.attributes)  # a mirror exchanges them
        self.attributes = [pictures.attributes[column] for column in self.columns]
        self.content = f"{pictures.fingerprint} {_spoken(places)}"
        self.fingerprint = f"{self.content} {target}"

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> PictureSample:
        sample = self.pictures[self.places[index]]
        return {"image": sample["image"], **self._labels(sample, index)}

    def planes(self, indices: Sequence[int]) -> UInt8[np.ndarray, "pictures 3 side side"] | None:
        """As its own set gathers them."""
        return self.pictures.planes([self.places[index] for index in indices])

    def labels(self, index: int) -> PictureSample:
        """What is true of a picture, which is not opened where its set need not."""
        return self._labels(self.pictures.labels(self.places[index]), index)

    def batch(self, indices: Sequence[int]) -> PictureSample:
        """Several pictures, or the truth alone where their features are kept."""
        if self.kept is not None and self.kept.has(KeptPart(self.split)):
            return self.truths(indices)
        return self.with_truth(super().batch(indices))

    def copy_of(self, epoch: int) -> int:
        """Which copy of the training pictures an epoch sees: one of its own, or one in turn."""
        return epoch if self.copies is None else epoch % self.copies

    def with_truth(self, batch: PictureSample) -> PictureSample:
        """What is true of attributes is known once a mirror has changed them."""
        if self.target != "attributes":
            return batch
        labels = {key: value for key, value in batch.items() if key != "attributes"}
        return labels | {"truth": batch["attributes"][:, : self.asked].double()}

    def truths(
        self, indices: Sequence[int], mirrored: Bool[Tensor, " pictures"] | None = None
    ) -> PictureSample:
        """What is true of several pictures, looked up once for all; some are seen in a mirror."""
        places = torch.tensor([self.places[index] for index in indices])
        if self.target != "attributes":
            return {"truth": self.every_truth[indices].double(), "index": places}
        values = self.every_truth[indices]
        if mirrored is not None:
            values = values.where(~mirrored[:, None], mirror_attributes(values, self.attributes))
        return self.with_truth({"attributes": values, "index": places})

    @functools.cached_property
    def every_truth(self) -> Shaped[Tensor, "pictures classes"]:
        """What is true of each picture; of attributes their values as they are, and the twins'."""
        if self.target == "attributes":
            return torch.stack([self.labels(i)["attributes"] for i in range(len(self))])
        if self.target == "presence":
            return torch.stack([self.labels(i)["truth"].bool() for i in range(len(self))])
        label = self.pictures.labels_of(list(self.places))["label"]
        classes = torch.arange(len(self.known["picture_classes"]))
        truth = label[:, None] == classes
        for row in (~truth.any(1)).nonzero()[:, 0].tolist():
            class_row(int(label[row]), self.known, self.places[row])  # refused, or unknown
        return truth

    def _labels(self, sample: PictureSample, index: int) -> PictureSample:
        place = self.places[index]
        if self.target == "attributes":
            return {"attributes": sample["attributes"][self.columns], "index": place}
        if self.target == "class":
            truth = class_row(int(sample["label"]), self.known, place)
        else:
            truth = presence_row(sample["mask"], self.known, self.least)
        return {"truth": truth, "index": place}

    def rows(self, places: Sequence[int]) -> list[int]:
        """The numbers here of pictures by those that their own set gives them."""
        return [bisect.bisect_left(self.places, place) for place in places]

    def picture_name(self, index: int) -> str:
        """What its own set calls it."""
        return self.pictures.picture_name(self.places[index])


def _spoken(places: Sequence[int]) -> str:
    """The first and the end of a range; of other places a hash."""
    if isinstance(places, range):
        return f"{places.start} {places.stop}"
    return hashlib.sha256(np.array(places, np.int64).tobytes()).hexdigest()


class ProbedTraining(Augmented):
    """Augmented pictures, or the truth alone of an epoch whose features are kept."""

    def batch(self, keys: Sequence[tuple[int, int]]) -> PictureSample:
        """Of one epoch."""
        keys = [(self.dataset.copy_of(epoch), index) for epoch, index in keys]
        part = KeptPart(self.dataset.split, keys[0][0])
        if self.dataset.kept is not None and self.dataset.kept.has(part):
            return self.dataset.truths([index for _, index in keys], self.mirrored(keys))
        return self.dataset.with_truth(super().batch(keys))


class ProbeImages(ImageDataModule):
    """Whole pictures for probes: a set without val gives its last training pictures for that."""

    def __init__(
        self,
        dataset: Callable[..., Pictures],
        *,
        target: str | None = None,
        val_share: float | int | None = 0.1,
        label_share: float | int = 1.0,
        least_pixels: int = 20,
        attributes: str | Sequence[str] | None = None,
        test_each_epoch: bool = False,
        copies: int | None = None,
        source: str = "live",
        store: Mapping | None = None,
        **images: object,
    ) -> None:
        """`target` is class, presence (`least_pixels` of a class make it present) or attributes
        (their names, or all that are binary or number); None: class where the pictures have one,
        else presence. With `val_share` None no training picture is held out; `label_share` of
        those that are left are learned from, of each class as large a share.
        `test_each_epoch`: the test pictures are looked at beside those held out, to tell what a
        choice by them would report. `copies`: flips, crops and noise are those of so many epochs,
        in turn; None: new ones in every epoch. `images` are ImageDataModule's arguments.

        With source="store" the features are those that `store` names by the words of
        FeatureSources, and no pictures are needed.
        """
        super().__init__(dataset, **images)
        if source != "live" and (self.flip or self.crop_padding or self.zoom > 1):
            raise UserError(
                f"data.source={source} reads features of pictures as they are, and here they would "
                "be flipped, cropped or zoomed: data.flip=false data.crop_padding=0, or "
                "data.source=live"
            )
        self.stored: FeatureSources | None = None
        if source != "live":
            absent = {"backbone": None, "dtype": "fp32", "compute": "fp32"}
            self.stored = FeatureSources(dataset=dataset, source=source, **absent, **(store or {}))
        if val_share is not None and not 0 < val_share < 1:
            raise UserError(f"data.val_share lies between 0 and 1, got {val_share}")
        check_label_share(label_share)
        at_least(1, "data", least_pixels=least_pixels, copies=copies)
        self.copies = copies
        self.asked, self.val_share, self.label_share = target, val_share, label_share
        self.least_pixels = least_pixels
        self.asked_attributes, self.test_each_epoch = attributes, test_each_epoch
        self._whole: dict[str, Pictures | tuple[()]] = {}

    def split(self, name: str) -> Pictures:
        """The pictures of this split, each with its truth."""
        if name not in self._made:
            own_val = name != "test" and len(self._opened("val")) > 0
            pictures = self._opened(name if own_val or name == "test" else "train")
            places = range(len(pictures))
            if name != "test" and not own_val:
                places = self._held_out(pictures)[name == "val"]
            target = self._target(pictures.facts)
            columns = self._columns(pictures.facts) if target == "attributes" else ()
            options = target, self.least_pixels, name, columns
            subset = ProbedPictures(pictures, places, *options)
            if name == "train" and self.label_share < 1:
                subset = ProbedPictures(pictures, self._labelled_places(subset), *options)
            subset.copies = self.copies
            subset.kept = EveryPart() if self.stored else None
            self._made[name] = subset
        return self._made[name]

    def copy_of(self, epoch: int) -> int:
        """Which copy of the training pictures an epoch sees."""
        return self.split("train").copy_of(epoch)

    @property
    def changes(self) -> dict[str, bool | int | float]:
        """What training pictures go through, and by which seed, their order too."""
        changes = {"flip": self.flip, "crop_padding": self.crop_padding, "zoom": self.zoom}
        return {"order": self.seed, **changes}

    def mirrored(self, epoch: int, places: Sequence[int]) -> Bool[Tensor, " pictures"]:
        """Which of these training pictures an epoch shows in a mirror."""
        training = self._training_pictures(self.split("train"))
        return training.mirrored([(epoch, place) for place in places])

    def read_kept(self, kept: KeptFolder | EveryPart, split: str) -> None:
        """From now on no pictures of the split come where their features are kept."""
        pictures = self.split(split)
        pictures.kept = kept
        len(pictures.every_truth)  # looked up here, once for all processes

    def _training_pictures(self, pictures: ProbedPictures) -> ProbedTraining:
        return ProbedTraining(pictures, self.seed, self.flip, self.crop_padding, self.zoom)

    @property
    def facts(self) -> dict[str, object]:
        """Those of the pictures, and which classes are predicted."""
        facts = self._opened(self._predicted()[0]).facts
        target = self._target(facts)
        if target == "class":
            names = list(facts["picture_classes"])
            facts |= {"num_classes": len(names), "class_names": names}
        if target == "attributes":
            facts |= asked_facts(facts, self._columns(facts))
        if self.stored:
            source = self._opened(self._predicted()[0]).source
            keys = ("backbone", "backbone_sha256")
            cells = [stream.facts for stream in source.streams]
            facts |= {"cells": cells, **{key: source.facts[key] for key in keys}}
        return {**facts, "target": target}

    def train_dataloader(self) -> TrainingLoader:
        """Pictures of two classes or more; says which are never seen."""
        pictures = self.split("train")
        if pictures.target == "class":
            facts = pictures.known
            ignored = None if facts["labelled"] else facts["ignore_label"]
            check_classes_seen(pictures.every_truth.sum(0), facts["picture_classes"], ignored)
        return super().train_dataloader()

    def val_dataloader(self) -> EvaluationLoader | list[EvaluationLoader]:
        """Pictures held out; with test_each_epoch those of the test too."""
        held_out = super().val_dataloader()
        return [held_out, self.test_dataloader()] if self.test_each_epoch else held_out

    def vectors(self, split: str, indices: Sequence[int]) -> list[Float32[Tensor, "pictures _"]]:
        """The stored features of these pictures, a tensor a timestep and block."""
        return self.split(split).pictures.vectors(indices)

    def _columns(self, facts: dict[str, object]) -> list[int]:
        """Which of the attributes are asked for."""
        return asked_columns(self.asked_attributes, facts)

    def _opened(self, name: str) -> Pictures | tuple[()]:
        """A split as its set or its store has it, made once."""
        if name not in self._whole:
            self._whole[name] = self._stored(name) if self.stored else self.make(split=name)
        return self._whole[name]

    def _stored(self, name: str) -> Pictures | tuple[()]:
        """A split of the store; val may be missing."""
        if name == "val" and not self.stored.has(name):
            return ()
        return StoredPictures(self.stored.open(name, torch.device("cpu")))

    def _target(self, facts: dict[str, object]) -> str:
        """Class or presence: pixels have tasks of their own."""
        if self.asked is None and facts["labelled"]:
            return "class" if facts["picture_classes"] else "presence"
        target = resolve_target(self.asked, facts)
        if target == "pixels":
            raise UserError(
                "target=pixels is learned by task=pixel_mlp, and measured by task=probe_sweep: "
                "here target=class or target=presence"
            )
        return target

    def _labelled_places(self, pictures: ProbedPictures) -> list[int]:
        """Those of the training pictures whose labels are looked at."""
        by_class = pictures.target == "class"
        truth = pictures.every_truth
        chosen = share_of_labels(truth, self.label_share, self.seed, by_class)
        return [pictures.places[index] for index in chosen]

    def _held_out(self, pictures: Pictures) -> tuple[range, range]:
        """The training pictures to learn from, and the last of them to choose by."""
        count = len(pictures)
        held = max(1, round(count * self.val_share)) if self.val_share is not None else 0
        if held >= count:
            raise UserError(
                f"{pictures.name} has {count} training pictures, of which {held} would be held out "
                "to choose by: give more with dataset.train_pictures=, or a smaller data.val_share"
            )
        return range(count - held), range(count - held, count)
