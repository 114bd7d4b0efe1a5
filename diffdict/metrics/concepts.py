"""Latent × class: at how many pixels each latent is active, and how well that fits each class.

`Concepts` counts; `Counts` says IoU, IwM and precision of every pair. The features are upsampled
bilinearly to the masks' size and then encoded; an encoder is affine and upsampling linear, so its
pre-activations are computed at native resolution and upsampled instead, which is the same.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from diffdict.errors import UserError
from diffdict.metrics.cells import find_cells
from diffdict.metrics.counting import count_above, count_ranked, count_tokens, label_cells
from diffdict.metrics.native import Given, Native

CRITERIA = ("iou", "iwm", "precision", "iou_sum")


class Figures(NamedTuple):
    """How areas where something is active fit areas of classes; nan where the class is absent."""

    iou: Float64[Tensor, "*pairs"]  # I / (A + B − I)
    iwm: Float64[Tensor, "*pairs"]  # intersection with the mask, I / B: the class's recall
    precision: Float64[Tensor, "*pairs"]  # I / A; 0 for what is never active
    iou_sum: Float64[Tensor, "*pairs"]  # I / (A + B), at most a half: the original notebook's IoU


def fit(
    both: Int64[Tensor, "*pairs"], active: Int64[Tensor, "*active"], pixels: Int64[Tensor, "*class"]
) -> Figures:
    """Figures from an intersection and the two areas, which broadcast to it."""
    inside, area, mask = both.double(), active.double(), pixels.double()
    mask = mask.masked_fill(mask == 0, torch.nan)
    present = torch.ones_like(mask) * mask / mask  # nan where the class is absent
    return Figures(
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

    def figures(self, threshold: int = 0) -> Figures:
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


class Concepts(Metric):
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
        for name, shape in {
            "intersections": (number, classes, latents),
            "pixels": (classes,),
            "ignored": (),
        }.items():
            zero = torch.zeros(shape, dtype=torch.int64)
            self.add_state(name, zero, dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: str = "") -> "Concepts":
        """Goes to another device with its module, but keeps float32 in a bf16 one."""
        return super()._apply(lambda x: x.to(fn(x).device), exclude_state)

    @torch.no_grad()
    def update(self, pre: Given, mask: Integer[Tensor, "pictures height width"]) -> None:
        """Pre-activations at native resolution, as a tensor or on demand, and the masks.

        On demand: `pre(part)`, of some latents; where latents are ranked, `pre(part, rows)` too.
        """
        device = self.pixels.device
        native = Native(pre, len(self.thresholds))
        if native.pictures != len(mask):
            raise UserError(f"{native.pictures} pictures have maps and {len(mask)} have masks")
        classes = len(self.class_names)
        labels = read_labels(mask.to(device), self.class_names, self.ignore_label).flatten()
        size, shape = tuple(mask.shape[1:]), list(self.intersections.shape)
        shape[1] += 1  # what is ignored is a class until here
        out = torch.zeros(shape, dtype=torch.int64, device=device)
        with torch.autocast(device.type, enabled=False):
            if size == native.grid:
                count_tokens(native, labels, self.thresholds, self.ranked, out)
            else:
                groups = find_cells(native.grid, size, native.pictures, device)
                if self.ranked:
                    count_ranked(native, groups, labels, self.thresholds, self.ranked, out)
                else:
                    count_above(
                        native, label_cells(groups, labels, classes + 1), self.thresholds, out
                    )
        counts = torch.bincount(labels, minlength=classes + 1)
        self.intersections += out[:, :classes]
        self.pixels += counts[:classes]
        self.ignored += counts[classes]

    def compute(self) -> Counts:
        """The counts of everything seen."""
        if not self.pixels.any():
            raise UserError("No labelled pixel was seen: latents need masks to be matched with")
        active = self.intersections.sum(1)
        return Counts(self.class_names, self.intersections, active, self.pixels, int(self.ignored))


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
        found = labels[wrong].unique().tolist()
        said = "nothing is ignored" if ignore_label is None else f"{ignore_label} is ignored"
        raise UserError(f"Masks hold labels {found[:8]}; classes are 0..{classes - 1}, {said}")
    return labels.masked_fill(ignored, classes)
