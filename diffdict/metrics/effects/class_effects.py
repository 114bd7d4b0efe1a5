"""What an edit does to a class: which label became which, inside its region, near it, elsewhere."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric

INSIDE, NEAR, ELSEWHERE = range(3)
SMALLEST = 12  # pixels of a picture of 64 × 64: with fewer of the class it is left out
UNIT = 2**30  # shares are summed as integers, so that no order of pictures changes a sum
FEWEST = 3  # pictures: with fewer a class has no figure


class EffectCounts(NamedTuple):
    """Pixels by zone, label before and label after, over the pictures that have the region."""

    transitions: Int64[Tensor, "3 classes classes"]
    shares: Int64[Tensor, " classes"]  # of each picture's region with each label after, × UNIT
    squares: Int64[Tensor, " classes"]  # … squared
    pictures: int
    squared: int = 0  # change of each picture, its mean square × UNIT
    zone_squared: Int64[Tensor, "3"] | None = None  # change of each pixel, squared × UNIT, by zone

    @property
    def rms(self) -> float:
        """How far the pictures are from what they were, over all of them."""
        return (self.squared / UNIT / self.pictures) ** 0.5 if self.pictures else torch.nan

    def zone_rms(self, zone: int) -> float:
        """The same over the pixels of one zone."""
        pixels = int(self.transitions[zone].sum())
        if self.zone_squared is None or not pixels:
            return torch.nan
        return (float(self.zone_squared[zone]) / UNIT / pixels) ** 0.5

    def kept(self, label: int) -> float:
        """The share of the region that has this label after the edit, a picture's mean."""
        return float(self.shares[label]) / UNIT / self.pictures if self.pictures else torch.nan

    def error(self, label: int) -> float:
        """The standard error of `kept` over pictures; nan below two."""
        if self.pictures < 2:
            return torch.nan
        mean, number = self.kept(label), self.pictures
        spread = max(0.0, float(self.squares[label]) / UNIT / number - mean**2)
        return (spread / (number - 1)) ** 0.5

    def area(self, label: int) -> float:
        """Pixels of the label after the edit over those before, in whole pictures."""
        before, after = self.transitions[:, label].sum(), self.transitions[:, :, label].sum()
        return float(after) / float(before) if before else torch.nan

    @property
    def outside(self) -> float:
        """The share of the pixels further away whose label changed."""
        table = self.transitions[ELSEWHERE]
        total = int(table.sum())
        return float(total - int(table.diagonal().sum())) / total if total else torch.nan

    def joined(self, other: "EffectCounts") -> "EffectCounts":
        """Of both together, where no picture stands in both."""
        sums = [ours + theirs for ours, theirs in zip(self, other, strict=True)]
        return EffectCounts(*sums)

    def became(self, label: int, number: int = 3) -> list[tuple[int, float]]:
        """The labels that the region lost its own to, with their shares of it, most first."""
        after = self.transitions[INSIDE].sum(0).double()
        shares = after / after.sum().clamp(min=1)
        order = shares.argsort(descending=True, stable=True).tolist()
        pairs = [(other, float(shares[other])) for other in order if other != label]
        return [pair for pair in pairs[:number] if pair[1] > 0]


class Effects(ExactMetric):
    """Counts transitions of labels in int64; states only sum, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, num_classes: int, margin: int) -> None:
        """`margin`: pixels around a region that are near it."""
        super().__init__()
        if num_classes < 1 or margin < 0:
            raise UserError(f"Effects: num_classes ≥ 1, margin ≥ 0, got {num_classes}, {margin}")
        self.num_classes, self.margin = num_classes, margin
        zero = torch.zeros(3, num_classes, num_classes, dtype=torch.int64)
        self.add_state("transitions", zero, dist_reduce_fx="sum")
        for name in ("shares", "squares"):
            self.add_state(name, zero[0, 0].clone(), dist_reduce_fx="sum")
        for name in ("pictures", "squared"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("zone_squared", zero[:, 0, 0].clone(), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(
        self,
        off: Integer[Tensor, "pictures height width"],
        on: Integer[Tensor, "pictures height width"],
        region: Bool[Tensor, "pictures height width"],
        change: Float[Tensor, "pictures height width"] | None = None,
    ) -> None:
        """Labels without and with the edit, and where the class is; too small a region is none.

        `change`: the square by which each pixel has changed.
        """
        off, on = (self._labels(labels) for labels in (off, on))
        region = region.to(off.device)
        large = large_enough(region)
        off, on, region = off[large], on[large], region[large]
        if not len(off):
            return
        classes = self.num_classes
        zones = zones_of(region, self.margin)
        pairs = ((zones * classes + off) * classes + on).flatten()
        counts = torch.bincount(pairs, minlength=self.transitions.numel())
        self.transitions += counts.view_as(self.transitions)
        pixels = region.sum((1, 2)).double()
        for label in range(classes):
            share = ((on == label) & region).sum((1, 2)).double() / pixels
            self.shares[label] += (share * UNIT).round().long().sum()
            self.squares[label] += (share.square() * UNIT).round().long().sum()
        self.pictures += len(off)
        if change is not None:
            squares = change.to(off.device).double()[large]
            self.squared += (squares.mean((1, 2)) * UNIT).round().long().sum()
            for zone in (INSIDE, NEAR, ELSEWHERE):
                pixels = (squares * (zones == zone)).sum((1, 2))
                self.zone_squared[zone] += (pixels * UNIT).round().long().sum()

    def _labels(self, labels: Tensor) -> Int64[Tensor, "pictures height width"]:
        labels = labels.long().to(self.transitions.device)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise UserError(
                f"Labels lie in 0..{self.num_classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}: the labeller's classes are others"
            )
        return labels

    def compute(self) -> EffectCounts:
        """The counts of everything seen."""
        numbers = int(self.pictures), int(self.squared)
        return EffectCounts(
            self.transitions, self.shares, self.squares, *numbers, self.zone_squared
        )


def large_enough(region: Bool[Tensor, "pictures height width"]) -> Bool[Tensor, " pictures"]:
    """The pictures in which the region has the pixels that a figure needs."""
    side = (region.shape[1] * region.shape[2]) ** 0.5
    return region.sum((1, 2)) >= max(1.0, SMALLEST * (side / 64) ** 2)


def zones_of(
    region: Bool[Tensor, "pictures height width"], margin: int
) -> Int64[Tensor, "pictures height width"]:
    """INSIDE the region, NEAR it (at most `margin` rows and columns away), or ELSEWHERE."""
    grown = F.max_pool2d(region[:, None].float(), 2 * margin + 1, 1, margin)[:, 0] > 0
    zones = torch.full(region.shape, ELSEWHERE, dtype=torch.int64, device=region.device)
    return zones.masked_fill(grown, NEAR).masked_fill(region, INSIDE)


def rank_share(value: float, controls: Float64[Tensor, " controls"] | list[float]) -> float:
    """p by rank: how many of the controls and the value itself are as large as the value."""
    values = torch.as_tensor(controls, dtype=torch.float64)
    return (1 + int((values >= value).sum())) / (1 + len(values)) if len(values) else torch.nan
