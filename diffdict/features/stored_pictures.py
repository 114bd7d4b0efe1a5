"""Pictures of which a store holds features and labels: what a probe learns from, without pixels."""

from collections.abc import Sequence
from typing import NoReturn

import torch
from jaxtyping import Float32
from torch import Tensor

from diffdict.data.attributes import Attribute
from diffdict.data.base import Pictures, PictureSample
from diffdict.errors import UserError
from diffdict.features.sources import StoredSource
from diffdict.features.whole_pictures import nonfinite_message


class StoredPictures(Pictures):
    """The labels of a store's pictures; the data set need not be here."""

    def __init__(self, source: StoredSource) -> None:
        self.source, facts = source, source.facts
        self.name, self.split = facts["dataset"], facts["split"]
        self.image_size = facts["image_size"]
        self.labelled, self.num_classes = facts["labelled"], facts["num_classes"]
        self.class_names, self.ignore_label = facts["class_names"], facts["ignore_label"]
        self.palette, self.picture_classes = facts["palette"], facts["picture_classes"]
        self.attributes = [Attribute(**attribute) for attribute in facts["attributes"]]
        self.fingerprint = facts["dataset_hash"]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> NoReturn:
        raise UserError(
            f"The store of {self.name} ({self.split}) holds features and labels, no pictures: "
            "data.source=live looks at the pictures themselves"
        )

    def labels(self, index: int) -> PictureSample:
        """The picture's class, mask and attributes, those that were stored."""
        sample: PictureSample = {"index": index}
        if self.labelled:
            sample["mask"] = self.source.mask(index).long()
        if self.picture_classes:
            sample["label"] = self.source.label(index)
        if self.attributes:
            sample["attributes"] = self.source.attributes(index)
        return sample

    def vectors(self, indices: Sequence[int]) -> list[Float32[Tensor, "pictures _"]]:
        """The pooled features of these pictures, a tensor a timestep and block."""
        vectors = [tokens.float().mean(1) for tokens in self.source.maps(indices)]
        for vector, stream in zip(vectors, self.source.streams, strict=True):
            for index in torch.tensor(indices)[~vector.isfinite().all(1)].tolist():
                raise UserError(nonfinite_message(self.source, index, stream))
        return vectors
