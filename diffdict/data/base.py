"""What every set of pictures offers: one split of them, their labels, and what tells it apart."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from diffdict.data.attributes import Attribute
from diffdict.data.pictures import in_range

# image, index; mask, label, attributes where the set has them
PictureSample = dict[str, Tensor | int]


class Pictures(Dataset, ABC):
    """The pictures of one split; the constructor takes `split` and sets the rest of these.

    Three kinds of label may come with a picture, each alone or beside the others:
    a mask (a class a pixel), a class of the whole picture, and attributes of the whole picture.
    All splits of a set have the same kinds, classes and attributes.
    """

    name: str  # names what is stored of it
    split: str  # train, val or test
    image_size: int  # side of the pictures
    fingerprint: str  # changes with whatever changes a picture, a label, or how many there are

    labelled: bool = False  # whether each picture has a mask
    num_classes: int = 0  # of the masks; where there are none, of the pictures
    class_names: Sequence[str] = ()  # of the same classes
    palette: Sequence[Sequence[int]] = ()  # a colour a class; none: some are found
    ignore_label: int | None = None  # among them what counts for nothing

    picture_classes: Sequence[str] = ()  # names of the classes of whole pictures; none: no `label`
    attributes: Sequence[Attribute] = ()  # what is known of whole pictures; none: no `attributes`

    @abstractmethod
    def __len__(self) -> int:
        """So many pictures; val may have none."""

    @abstractmethod
    def __getitem__(self, index: int) -> PictureSample:
        """The picture `index` (any integer from 0) and every label of `label_kinds`.

        `image`: [3, size, size] float in [-1, 1]; `index`: the number it was asked by.
        `mask`: [size, size] int64, numbers of `class_names` or `ignore_label`.
        `label`: one int, the number of its class in `picture_classes`; where there are no masks
        also `ignore_label`, of an unknown class.
        `attributes`: [attributes] float32, in the order of `attributes`; NaN where unknown.
        """

    def batch(self, indices: Sequence[int]) -> PictureSample:
        """Several samples as one batch."""
        planes = self.planes(indices)
        if planes is None:
            return default_collate([self[index] for index in indices])
        return {"image": in_range(planes), **self.labels_of(indices)}

    def planes(self, indices: Sequence[int]) -> UInt8[np.ndarray, "pictures 3 side side"] | None:
        """The bytes of several pictures, of sets that can gather them at once; else None."""
        return None

    def labels(self, index: int) -> PictureSample:
        """A sample without its picture; sets that need not open it for that do not."""
        return {key: value for key, value in self[index].items() if key != "image"}

    def labels_of(self, indices: Sequence[int]) -> PictureSample:
        """Several samples as one batch, without their pictures."""
        return default_collate([self.labels(index) for index in indices])

    @property
    def label_kinds(self) -> list[str]:
        """The labels that come with each picture: of mask, label and attributes."""
        has = {
            "mask": self.labelled,
            "label": len(self.picture_classes),
            "attributes": len(self.attributes),
        }
        return [kind for kind, there in has.items() if there]

    @property
    def facts(self) -> dict[str, object]:
        """What a task, a report or a store may ask of the set, in plain types."""
        return {
            "dataset": self.name,
            "image_size": self.image_size,
            "labelled": self.labelled,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "palette": self.palette,
            "ignore_label": self.ignore_label,
            "picture_classes": list(self.picture_classes),
            "attributes": [attribute._asdict() for attribute in self.attributes],
        }

    def picture_name(self, index: int) -> str:
        """What a person knows the picture by."""
        return f"{self.name}/{self.split}/{index:05d}"
