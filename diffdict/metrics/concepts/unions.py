"""A few latents together for a class: unions grown greedily, from exact joint counts.

In a second pass over the pictures the candidates of a class, a dozen at most, leave at each pixel
a pattern: which of them are active. How often each pattern occurs, inside the class and outside,
is all that any union of them needs, and a sum.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from diffdict.bilinear.cells import Cells, find_cells
from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric
from diffdict.metrics.concepts.entries import PixelEntries, above_pixels, ranked_pixels
from diffdict.metrics.concepts.overlap import Counts, read_labels
from diffdict.metrics.concepts.pre_activations import PIECE, Native, PreActivations

MOST = 16  # candidates of a class: 2^16 patterns


class Candidates(NamedTuple):
    """For each class, latents and their thresholds, the best first."""

    latents: Int64[Tensor, "classes candidates"]
    thresholds: Float[Tensor, "classes candidates"]  # pre-activations


class Union(NamedTuple):
    """Latents whose areas together are taken for a class."""

    latents: list[int]  # in the order in which they came in
    slots: list[int]  # their places among the candidates
    iou: list[float]  # after each, on the pictures that they were chosen on


class Patterns(NamedTuple):
    """How often which candidates of a class are active together, outside it and inside."""

    candidates: Candidates
    counts: Int64[Tensor, "classes 2 patterns"]

    def iou(self, slots: Sequence[Sequence[int]]) -> Float64[Tensor, " classes"]:
        """Of each class's union of these candidates; nan where the class is absent."""
        scores = [
            _iou(counts, sum(1 << slot for slot in some))
            for counts, some in zip(self.counts, slots, strict=True)
        ]
        return torch.stack(scores)

    def grow(self, most: int = 4) -> list[Union]:
        """For each class the best candidate, then what raises the IoU most, while any does."""
        unions = []
        for counts, latents in zip(self.counts, self.candidates.latents.tolist(), strict=True):
            slots, scores = [], []
            while len(slots) < min(most, len(latents)):
                chosen = sum(1 << slot for slot in slots)
                tried = torch.stack([_iou(counts, chosen | 1 << i) for i in range(len(latents))])
                best = int(tried.argmax())
                if not tried[best] > (scores[-1] if scores else 0):
                    break
                slots.append(best)
                scores.append(float(tried[best]))
            unions.append(Union([latents[slot] for slot in slots], slots, scores))
        return unions


def _iou(counts: Int64[Tensor, "2 patterns"], union: int) -> Float64[Tensor, ""]:
    every = torch.arange(counts.shape[1], device=counts.device)
    outside, inside = (counts * ((every & union) > 0)).sum(1)
    pixels = counts[1].sum().double()
    return inside / torch.where(pixels > 0, pixels + outside, torch.nan)


def candidates(
    train: Counts, thresholds: Float[Tensor, "latents thresholds"], number: int = 12
) -> Candidates:
    """The latents of the largest IoU with each class, each at its best threshold."""
    if not 1 <= number <= MOST:
        raise UserError(f"A union has 1 to {MOST} candidates, got {number}")
    score, where = train.best()
    latents = score.nan_to_num(nan=0).topk(min(number, score.shape[1])).indices
    return Candidates(latents, thresholds[latents, where.gather(1, latents)])


class Unions(ExactMetric):
    """Joint counts of each class's candidates; states are sums of integers, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(
        self,
        class_names: Sequence[str],
        candidates: Candidates,
        latents: int,
        *,
        ranked: int | None = None,
        ignore_label: int | None = None,
    ) -> None:
        """`latents` of the dictionary; the rest as for `Concepts`."""
        super().__init__()
        self.class_names, self.ranked, self.ignore_label = tuple(class_names), ranked, ignore_label
        self.number = latents
        self.register_buffer("latents", candidates.latents.clone(), persistent=False)
        self.register_buffer("thresholds", candidates.thresholds.float().clone(), persistent=False)
        classes, number = candidates.latents.shape
        members = candidates.latents.flatten()
        self.register_buffer("pairs", members.argsort(stable=True), persistent=False)
        self.register_buffer("owners", torch.bincount(members, minlength=latents), persistent=False)
        zero = torch.zeros(classes, 2, 2**number, dtype=torch.int64)
        self.add_state("patterns", zero, dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, pre: PreActivations, mask: Integer[Tensor, "pictures height width"]) -> None:
        """As `Concepts`; on demand, `part` is a tensor of latents here."""
        device = self.patterns.device
        native = Native(pre, self.number)
        labels = read_labels(mask.to(device), self.class_names, self.ignore_label).flatten()
        groups = find_cells(native.grid, tuple(mask.shape[1:]), native.pictures, device)
        classes, number = self.latents.shape
        marks = torch.zeros(classes, len(labels), dtype=torch.int64, device=device)
        with torch.autocast(device.type, enabled=False):
            for entries in self._entries(native, groups):
                self._mark(entries, marks)
        labelled = labels < classes
        for label, (pattern, counts) in enumerate(zip(marks, self.patterns, strict=True)):
            places = pattern + ((labels == label).long() << number)
            counts.view(-1).add_(torch.bincount(places[labelled], minlength=2 ** (number + 1)))

    def _entries(self, native: Native, groups: list[Cells]) -> Iterator[PixelEntries]:
        """Where candidates are active at their lowest thresholds."""
        floors = torch.full((self.number,), torch.inf, device=native.device)
        floors.scatter_reduce_(0, self.latents.view(-1), self.thresholds.view(-1), "amin")
        if self.ranked:
            yield from ranked_pixels(native, groups, floors, self.ranked)
            return
        tokens = native.pictures * native.grid[0] * native.grid[1]
        for some in self.latents.unique().split(max(1, PIECE // tokens)):
            for pixel, latent, value in above_pixels(native.at(some), groups, floors[some]):
                yield PixelEntries(pixel, some[latent], value)

    def _mark(self, entries: PixelEntries, marks: Int64[Tensor, "classes pixels"]) -> None:
        """Sets each entry's bit in every class that it is a candidate of."""
        owners = self.owners[entries.latent]
        entry = torch.arange(len(owners), device=marks.device).repeat_interleave(owners)
        place = torch.arange(len(entry), device=marks.device) - (owners.cumsum(0) - owners)[entry]
        first = self.owners.cumsum(0) - self.owners
        pair = self.pairs[first[entries.latent[entry]] + place]
        hit = entries.value[entry] > self.thresholds.flatten()[pair]
        pair, pixel = pair[hit], entries.pixel[entry[hit]]
        label, slot = pair // self.latents.shape[1], pair % self.latents.shape[1]
        bits = torch.ones_like(slot) << slot
        marks.view(-1).index_add_(0, label * marks.shape[1] + pixel, bits)

    def compute(self) -> Patterns:
        """The patterns of everything seen."""
        return Patterns(Candidates(self.latents, self.thresholds), self.patterns)
