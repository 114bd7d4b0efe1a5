"""Training pictures and what happens to them: random flips, crops and zooms, masks with them."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from diffdict.data.attributes import Attribute, check_mirrors, mirror_attributes
from diffdict.data.base import Pictures, PictureSample
from diffdict.data.batches.batch_draws import first_draws
from diffdict.data.pictures import in_range, nearest_index

MAPS = ("image", "mask", "seen")  # of a sample: the last is what an encoder is shown of it


def paired_flip(sample: PictureSample, attributes: Sequence[Attribute] = ()) -> PictureSample:
    """The sample seen in a mirror: picture, mask, and attributes as each of them says.

    Of `vectors`, the picture's and its mirror image's, the second comes first.
    """
    mirrored = _on_maps(sample, lambda pixels: pixels.flip(-1))
    if "vectors" in sample:
        mirrored["vectors"] = sample["vectors"].flip(0)
    if attributes:
        mirrored["attributes"] = mirror_attributes(sample["attributes"], attributes)
    return mirrored


def paired_crop(sample: PictureSample, padding: int, top: int, left: int) -> PictureSample:
    """A window of the padded sample: black borders, or with a mask mirrored (no label invented)."""
    image = sample["image"]
    side_y, side_x = image.shape[-2:]
    rows = torch.arange(top - padding, top - padding + side_y)
    columns = torch.arange(left - padding, left - padding + side_x)
    if "mask" not in sample:
        padded = F.pad(image, (padding,) * 4, value=-1.0)
        return sample | {"image": padded[:, top : top + side_y, left : left + side_x]}
    rows, columns = _mirror(rows, side_y), _mirror(columns, side_x)
    return _on_maps(sample, lambda pixels: pixels[..., rows[:, None], columns])


def paired_zoom(sample: PictureSample, window: int, top: int, left: int) -> PictureSample:
    """A window of the sample at the sample's size: the picture bilinear, a mask nearest.

    What lies outside the sample is its mirror image.
    """
    side = sample["image"].shape[-1]
    rows, columns = (_mirror(torch.arange(at, at + window), side) for at in (top, left))
    crop = sample["image"][:, rows[:, None], columns]
    zoomed = {"image": F.interpolate(crop[None], (side, side), mode="bilinear")[0]}
    if "mask" in sample:
        nearest = torch.from_numpy(nearest_index(window, side))
        zoomed["mask"] = sample["mask"][rows[nearest][:, None], columns[nearest]]
    return sample | zoomed


def _mirror(index: Int64[Tensor, " n"], side: int) -> Int64[Tensor, " n"]:
    """Positions outside 0..side-1 reflected at the border pixel."""
    return (side - 1) - ((side - 1) - index.abs()).abs()


def _on_maps(sample: PictureSample, change: Callable[[Tensor], Tensor]) -> PictureSample:
    return sample | {key: change(sample[key]) for key in MAPS if key in sample}


class Augmented(Dataset):
    """The dataset under keys (epoch, index): what happens to a picture depends on nothing else."""

    def __init__(
        self, dataset: Pictures, seed: int, flip: bool, crop_padding: int, zoom: float = 1.0
    ):
        if flip:
            check_mirrors(dataset.attributes, dataset.name)
        self.dataset, self.seed, self.flip, self.crop_padding = dataset, seed, flip, crop_padding
        self.zoom = zoom

    def __getitem__(self, key: tuple[int, int]) -> PictureSample:
        epoch, index = key
        sample = self.dataset[index]
        if not (self.flip or self.crop_padding or self.zoom > 1):
            return sample
        generator = np.random.default_rng([self.seed, epoch, index])
        mirrored = generator.random() < 0.5
        top, left = generator.integers(0, 2 * self.crop_padding + 1, size=2).tolist()
        if self.crop_padding:
            sample = paired_crop(sample, self.crop_padding, top, left)
        if self.zoom > 1:
            side, most = sample["image"].shape[-1], math.log(self.zoom)
            window = round(side / math.exp(generator.uniform(-most, most)))
            spare = sorted((0, side - window))
            top, left = generator.integers(spare[0], spare[1] + 1, size=2).tolist()
            sample = paired_zoom(sample, window, top, left)
        return paired_flip(sample, self.dataset.attributes) if self.flip and mirrored else sample

    def batch(self, keys: Sequence[tuple[int, int]]) -> PictureSample:
        """Several samples as one batch, with the same pixels."""
        indices = [index for _, index in keys]
        planes = self.dataset.planes(indices)
        labels_move = self.dataset.labelled or (self.flip and self.dataset.attributes)
        if planes is None or self.zoom > 1 or labels_move:
            return default_collate([self[key] for key in keys])
        if self.flip or self.crop_padding:
            planes = self._moved(planes, keys)
        return {"image": in_range(planes), **self.dataset.labels_of(indices)}

    def mirrored(self, keys: Sequence[tuple[int, int]]) -> Bool[Tensor, " pictures"]:
        """Which of these pictures are seen in a mirror."""
        return torch.from_numpy(first_draws(self.seed, keys, 1).halves) & self.flip

    def _moved(
        self,
        planes: UInt8[np.ndarray, "pictures 3 side side"],
        keys: Sequence[tuple[int, int]],
    ) -> UInt8[np.ndarray, "pictures 3 side side"]:
        """Each picture cropped and flipped as __getitem__ would."""
        mirrored, places = first_draws(self.seed, keys, 2 * self.crop_padding + 1)
        if padding := self.crop_padding:
            (top, left), side = places.T, planes.shape[-1]
            black = np.zeros((*planes.shape[:2], *(side + 2 * padding,) * 2), np.uint8)
            black[..., padding : padding + side, padding : padding + side] = planes
            windows = np.lib.stride_tricks.sliding_window_view(black, (side, side), (2, 3))
            planes = windows[np.arange(len(keys)), :, top, left]
        if self.flip:
            planes = np.where(mirrored[:, None, None, None], planes[..., ::-1], planes)
        return planes
