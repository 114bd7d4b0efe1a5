"""Latent × class: at how many pixels each latent is active, and how well that fits each class.

`Concepts` counts; `Counts` says IoU, IwM and precision of every pair. The features are upsampled
bilinearly to the masks' size and then encoded; an encoder is affine and upsampling linear, so its
pre-activations are computed at native resolution and upsampled instead, which is the same.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from diffdict.bilinear.cells import find_cells
from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric
from diffdict.metrics.concepts.counting import count_alone
from diffdict.metrics.concepts.entries import count_entries, ranked_pixels, token_entries
from diffdict.metrics.concepts.pre_activations import Native, PreActivations

SETS, STATES = ("", "null_"), ("intersections", "pixels", "ignored")
CRITERIA = ("iou", "iwm", "precision", "iou_sum")


class OverlapFigures(NamedTuple):
    """How areas where something is active fit areas of classes; nan where the class is absent."""

    iou: Float64[Tensor, "*pairs"]  # I / (A + B − I)
    iwm: Float64[Tensor, "*pairs"]  # intersection with the mask, I / B: the class's recall
    precision: Float64[Tensor, "*pairs"]  # I / A; 0 for what is never active
    iou_sum: Float64[Tensor, "*pairs"]  # I / (A + B), at most a half: the original notebook's IoU


def fit(
    both: Int64[Tensor, "*pairs"], active: Int64[Tensor, "*active"], pixels: Int64[Tensor, "*class"]
) -> OverlapFigures:
    """Figures from an intersection and the two areas, which broadcast to it."""
    inside, area, mask = both.double(), active.double(), pixels.double()
    mask = mask.masked_fill(mask == 0, torch.nan)
    present = torch.ones_like(mask) * mask / mask  # nan where the class is absent
    return OverlapFigures(
        iou=inside / (area + mask - inside),
        iwm=inside / mask,
        precision=inside / area.clamp(min=1) * present,
        iou_sum=inside / (area + mask),
    )


class Counts(NamedTuple):
    """Pixels of a labelled set, in exact numbers; what is ignored is in none of them."""

    class_names: tuple[str, ...]
    intersections: Int64[Tensor, "thresholds classes latents"]
    active: Int64[Tensor, "thresholds latents"]  # of every class
    pixels: Int64[Tensor, " classes"]
    ignored: int
    null: "Counts | None" = None  # the same areas against masks of other pictures

    @property
    def absent(self) -> list[str]:
        """Classes without a pixel: their figures are nan and belong into no mean."""
        return [
            name for name, n in zip(self.class_names, self.pixels.tolist(), strict=True) if not n
        ]

    @property
    def live(self) -> Bool[Tensor, " latents"]:
        """Latents that are active anywhere."""
        return self.active[0] > 0

    def figures(self, threshold: int = 0) -> OverlapFigures:
        """Of every pair [classes, latents], at one of the thresholds."""
        both, active = self.intersections[threshold], self.active[threshold]
        return fit(both, active, self.pixels[:, None])

    def best(
        self, by: str = "iou", threshold: int | None = None
    ) -> tuple[Float64[Tensor, "classes latents"], Int64[Tensor, "classes latents"]]:
        """The largest figure of every pair over the thresholds (or at one), and where it is."""
        if by not in CRITERIA:
            raise UserError(f"Latents are chosen by {', '.join(CRITERIA)}, not by {by!r}")
        some = range(len(self.intersections)) if threshold is None else [threshold]
        score = torch.full_like(self.intersections[0], -1, dtype=torch.float64)
        where = torch.full_like(self.intersections[0], some[0])
        for i in some:
            here = getattr(self.figures(i), by)
            where[here > score] = i
            score = torch.maximum(score, here)  # carries nan on
        return score, where


class Concepts(ExactMetric):
    """Counts latent × class over a labelled set; states are sums of integers, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(
        self,
        class_names: Sequence[str],
        thresholds: Float[Tensor, "latents thresholds"],
        *,
        ranked: int | None = None,
        ignore_label: int | None = None,
    ) -> None:
        """A latent is active where its pre-activation is above a threshold; they ascend.

        The first is its floor, above which its code is positive (`activations.find_floors`).
        `ranked`: and only where it is among so many largest of all latents.
        """
        super().__init__()
        if not (thresholds[:, 1:] >= thresholds[:, :-1]).all() or thresholds.isnan().any():
            raise UserError("Thresholds of a latent ascend and are not NaN: sort them")
        if ranked is not None and ranked < 1:
            raise UserError(f"At least 1 latent is active at a pixel, got ranked={ranked}")
        self.class_names, self.ranked, self.ignore_label = tuple(class_names), ranked, ignore_label
        self.register_buffer("thresholds", thresholds.detach().float().clone(), persistent=False)
        (latents, number), classes = thresholds.shape, len(self.class_names)
        shapes = (number, classes, latents), (classes,), ()
        for name, (key, shape) in product(SETS, [*zip(STATES, shapes, strict=True)]):
            zero = torch.zeros(shape, dtype=torch.int64)
            self.add_state(name + key, zero, dist_reduce_fx="sum")

    @torch.no_grad()
    def update(
        self,
        pre: PreActivations,
        mask: Integer[Tensor, "pictures height width"],
        other: Integer[Tensor, "pictures height width"] | None = None,
    ) -> None:
        """Pre-activations at native resolution, as a tensor or on demand, and the masks.

        On demand: `pre(part)`, of some latents; where latents are ranked, `pre(part, rows)` too.
        `other` are masks of other pictures (`selection.exchanged`), for the null.
        """
        device, classes = self.pixels.device, len(self.class_names)
        native = Native(pre, len(self.thresholds))
        masks = [mask] if other is None else [mask, other]
        for each in masks:
            if native.pictures != len(each):
                raise UserError(f"{native.pictures} pictures have maps and {len(each)} have masks")
        labels = [read_labels(m.to(device), self.class_names, self.ignore_label) for m in masks]
        number, _, latents = self.intersections.shape  # what is ignored is a class until the end
        shape = len(masks), number, classes + 1, latents
        out = torch.zeros(shape, dtype=torch.int64, device=device)
        with torch.autocast(device.type, enabled=False):
            self._count(native, torch.stack(labels).flatten(1), tuple(mask.shape[1:]), out)
        for name, label_map, overlaps in zip(SETS, labels, out, strict=False):
            counts = torch.bincount(label_map.flatten(), minlength=classes + 1)
            getattr(self, f"{name}intersections").add_(overlaps[:, :classes])
            getattr(self, f"{name}pixels").add_(counts[:classes])
            getattr(self, f"{name}ignored").add_(counts[classes])

    def _count(self, native: Native, labels: Tensor, size: tuple[int, int], out: Tensor) -> None:
        floors = self.thresholds[:, 0].contiguous()
        if size == native.grid:
            entries = token_entries(native, floors, self.ranked)
            count_entries(entries, labels, self.thresholds, out)
            return
        groups = find_cells(native.grid, size, native.pictures, native.device)
        if self.ranked:
            entries = ranked_pixels(native, groups, floors, self.ranked)
            count_entries(entries, labels, self.thresholds, out)
        else:
            count_alone(native, groups, labels, self.thresholds, out)

    def compute(self) -> Counts:
        """The counts of everything seen."""
        if not self.pixels.any():
            raise UserError("No labelled pixel was seen: latents need masks to be matched with")
        null = self._counts("null_") if self.null_pixels.any() else None
        return self._counts("", null)

    def _counts(self, name: str, null: Counts | None = None) -> Counts:
        both, pixels, ignored = (getattr(self, name + key) for key in STATES)
        return Counts(self.class_names, both, both.sum(1), pixels, int(ignored), null)


def read_labels(
    mask: Integer[Tensor, "pictures height width"],
    class_names: Sequence[str],
    ignore_label: int | None,
) -> Int64[Tensor, "pictures height width"]:
    """Labels of 0..classes, where the last stands for what is ignored."""
    labels, classes = mask.long(), len(class_names)
    ignored = labels == (classes if ignore_label is None else ignore_label)
    wrong = ((labels < 0) | (labels >= classes)) & ~ignored
    if ignore_label is None:
        wrong |= ignored
    if wrong.any():
        strange = labels[wrong].unique().tolist()
        rule = "nothing is ignored" if ignore_label is None else f"{ignore_label} is ignored"
        raise UserError(f"Masks hold labels {strange[:8]}; classes are 0..{classes - 1}, {rule}")
    return labels.masked_fill(ignored, classes)
