"""Whole pictures as one vector a map: the mean over its positions, beside the picture's classes."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Integer, Shaped
from torch import Tensor

from diffdict.errors import UserError
from diffdict.features.codes.pooled_codes import code_streams, code_vectors
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.sources import Source
from diffdict.features.whole_pictures import nonfinite_message
from diffdict.sae.base import Sae

TARGETS = ("pixels", "class", "presence", "attributes")


class PooledPictures(NamedTuple):
    """Some pictures: a vector a map, and which classes are true of each."""

    vectors: list[Float32[Tensor, "pictures channels"]]
    # 1 or 0, a row of zeros: nothing is known of it; of attributes their values, NaN: unknown
    truth: Float64[Tensor, "pictures classes"]


def resolve_target(target: str | None, facts: Mapping) -> str:
    """What a probe predicts: what was asked for, or what this set has labels of."""
    if target is None:
        if not (facts["labelled"] or facts["picture_classes"]):
            raise UserError(f"{facts['dataset']} has no labels: choose a labelled dataset")
        return "pixels" if facts["labelled"] else "class"
    if target not in TARGETS:
        raise UserError(f"target is {', '.join(TARGETS)} or null, got {target!r}: target=null")
    if target == "class" and not facts["picture_classes"]:
        instead = ": target=pixels or target=presence" if facts["labelled"] else ""
        raise UserError(
            f"target=class predicts a class of the whole picture, and those of {facts['dataset']} "
            f"have none{instead or ': choose a labelled dataset'}"
        )
    if target == "attributes":
        if not facts["attributes"]:
            raise UserError(
                f"target=attributes is about attributes of whole pictures, and those of "
                f"{facts['dataset']} have none: dataset=toy_faces or celeba64 has some, and "
                "dataset=folder where attributes.csv lies beside the pictures"
            )
        return target
    if target != "class" and not facts["labelled"]:
        instead = "target=class" if facts["picture_classes"] else "choose a labelled dataset"
        raise UserError(
            f"target={target} is about masks, and the pictures of {facts['dataset']} have none: "
            f"{instead}"
        )
    return target


@torch.no_grad()
def pooled_vectors(
    passes: Passes,
    images: Float[Tensor, "batch 3 height width"],
    indices: Sequence[int],
    noise: Noise,
) -> list[Float32[Tensor, "batch _"]]:
    """Each timestep's and block's map of these pictures under this noise, as its mean."""
    passes.net.to(images.device)
    passes.noise = noise
    maps = passes.maps(images, indices)
    return [maps[key].float().mean((2, 3)) for key in passes.keys]


class PooledLoader:
    """Pictures of a source in batches, each map pooled to its mean."""

    def __init__(
        self,
        source: Source,
        pictures: Sequence[int],
        batch_size: int,
        target: str,
        least_pixels: int = 1,
        sae: Sae | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        """A class is present in a picture of which it has `least_pixels` or more.

        `sae`: a dictionary whose codes, pooled, follow each map. `columns` are those of the
        attributes that are asked for.
        """
        if source.normalisation.whole_pictures:
            raise UserError(
                "A picture's channels have mean 0 with data.normalise=channel, and a pooled map is "
                "these means: data.normalise=token, or target=pixels"
            )
        self.sae, self.streams, self.columns = sae, source.streams, columns
        if sae is not None:
            self.streams = code_streams(source.streams, sae.latents)
        self.source, self.pictures, self.batch_size = source, pictures, batch_size
        self.target, self.least_pixels = target, least_pixels

    def __len__(self) -> int:
        return -(-len(self.pictures) // self.batch_size)

    def __iter__(self) -> Iterator[PooledPictures]:
        for start in range(0, len(self.pictures), self.batch_size):
            indices = list(self.pictures[start : start + self.batch_size])
            vectors = self._vectors(self.source.maps(indices))
            for vector, stream in zip(vectors, self.streams, strict=True):
                for index in torch.tensor(indices)[~vector.isfinite().all(1).cpu()].tolist():
                    raise UserError(nonfinite_message(self.source, index, stream))
            truth = torch.stack([self._truth(index) for index in indices])
            yield PooledPictures(vectors, truth)

    def _vectors(
        self, maps: list[Float[Tensor, "pictures _ _"]]
    ) -> list[Float32[Tensor, "pictures _"]]:
        """One a stream."""
        if self.sae is None:
            return [tokens.float().mean(1) for tokens in maps]
        return code_vectors(maps, self.sae.to(maps[0].device))

    def _truth(self, index: int) -> Float64[Tensor, " classes"]:
        """Which classes are true of a picture."""
        facts = self.source.facts
        if self.target == "attributes":
            return self.source.attributes(index).double()[self.columns]
        if self.target == "class":
            return class_row(int(self.source.label(index)), facts, index)
        return presence_row(self.source.mask(index), facts, self.least_pixels)


def class_row(label: int, facts: Mapping, index: int) -> Float64[Tensor, " classes"]:
    """A 1 at the picture's class; zeros where it is unknown."""
    row = torch.zeros(len(facts["picture_classes"]), dtype=torch.float64)
    if not facts["labelled"] and label == facts["ignore_label"]:
        return row
    if not 0 <= label < len(row):
        raise UserError(
            f"Picture {index} of {facts['dataset']} has class {label}, and there are 0 to "
            f"{len(row) - 1}: name them all in the data set, or mend the label"
        )
    row[label] = 1
    return row


def check_classes_seen(
    pictures: Shaped[Tensor, " classes"], names: Sequence[str], ignored: int | None
) -> None:
    """Refuses pictures of one class alone; says of which classes there are none to fit on."""
    counts = [int(count) for count in pictures.tolist()]
    every = list(zip(names, counts, strict=True))
    shown = [name for name, count in every if count]
    if len(shown) < 2:
        raise UserError(
            f"A probe tells classes apart, and the {sum(counts)} pictures fitted on show "
            f"{', '.join(shown) or 'none'}: give more with dataset.train_pictures="
        )
    absent = [name for i, (name, count) in enumerate(every) if not count and i != ignored]
    if absent:
        warnings.warn(
            f"No picture fitted on is of class {', '.join(absent)}: what is never seen can only "
            "be mistaken",
            stacklevel=3,
        )


def presence_row(
    mask: Integer[Tensor, "height width"], facts: Mapping, least_pixels: int
) -> Float64[Tensor, " classes"]:
    """A 1 for each class, but the ignored one, that has so many pixels in the mask."""
    labels = mask.long().flatten()
    if facts["ignore_label"] is not None:
        labels = labels[labels != facts["ignore_label"]]
    pixels = labels.bincount(minlength=facts["num_classes"])
    if len(pixels) > facts["num_classes"]:
        raise UserError(
            f"A mask of {facts['dataset']} holds label {len(pixels) - 1}; classes are 0 to "
            f"{facts['num_classes'] - 1}, {facts['ignore_label']} is ignored: mend the mask"
        )
    return (pixels >= max(1, least_pixels)).double()
