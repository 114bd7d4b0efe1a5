"""How well label maps agree with the truth, over a whole set; and how much an ensemble doubts.

Intersections and unions are summed over all pictures before they are divided, as few-shot
segmentation is published: a mean of each picture's own mIoU is another number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from diffdict.errors import UserError

PROTOCOLS = ("published", "standard")
TINY = 1e-8  # what the published IoU adds to a union


class Prediction(NamedTuple):
    """What an ensemble makes of one picture."""

    majority: Int64[Tensor, "height width"]  # the label of most members
    soft: Int64[Tensor, "height width"]  # the label of the largest mean probability
    uncertainty: Float[Tensor, "height width"]  # how far the members disagree


class Confusion(NamedTuple):
    """Pixels of a labelled set by what they are and what they were taken for, in exact numbers."""

    pixels: Int64[Tensor, "truth prediction"]  # of what is labelled
    ignored: Int64[Tensor, " prediction"]  # what the ignored pixels were taken for
    ignore_label: int | None

    def iou(self, protocol: str = "published") -> Float64[Tensor, " classes"]:
        """IoU of every class; nan where it is in no mean.

        published: of all classes but the ignored one. What nobody has seen scores 0, and ignored
        pixels are part of the union of the class that they were taken for (Baranchuk et al. 2022).
        standard: ignored pixels do not count, nor do classes that neither truth nor prediction has.
        """
        check_protocol(protocol)
        inside = self.pixels.diagonal().double()
        union = self.pixels.sum(0) + self.pixels.sum(1) - inside
        if protocol == "published":
            iou = inside / (TINY + union + self.ignored)
        else:
            iou = inside / union.masked_fill(union == 0, torch.nan)
        if self.ignore_label is not None and self.ignore_label < len(iou):
            iou[self.ignore_label] = torch.nan
        return iou

    def miou(self, protocol: str = "published") -> float:
        """The mean over the classes that count."""
        return float(self.iou(protocol).nanmean())

    def table(
        self, class_names: Sequence[str], protocol: str = "published"
    ) -> list[dict[str, str | int | float]]:
        """A row a class: IoU, precision, recall, and pixels of it in truth and prediction."""
        columns = {
            "iou": self.iou(protocol),
            "precision": self.precision,
            "recall": self.recall,
            "pixels": self.pixels.sum(1),
            "predicted": self.pixels.sum(0),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [
            {"class": name, **dict(zip(columns, row, strict=True))}
            for name, row in zip(class_names, rows, strict=True)
        ]

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that were taken for what they are."""
        return float(self.pixels.diagonal().sum() / self.pixels.sum())

    @property
    def recall(self) -> Float64[Tensor, " classes"]:
        """Share of each class's pixels that were taken for it; nan where it has none."""
        return self.pixels.diagonal().double() / self.pixels.sum(1)

    @property
    def precision(self) -> Float64[Tensor, " classes"]:
        """Share of the pixels taken for each class that are of it; nan where there are none."""
        return self.pixels.diagonal().double() / self.pixels.sum(0)


class Segmentation(Metric):
    """Counts truth × prediction; states are sums of integers, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, num_classes: int, ignore_label: int | None = None) -> None:
        super().__init__()
        self.num_classes, self.ignore_label = num_classes, ignore_label
        zero = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64)  # last: ignored
        self.add_state("counts", zero, dist_reduce_fx="sum")

    def update(
        self, predicted: Integer[Tensor, "*pictures h w"], truth: Integer[Tensor, "*pictures h w"]
    ) -> None:
        """Label maps and the masks."""
        classes, labels = self.num_classes, truth.long()
        ignored = torch.zeros_like(labels, dtype=torch.bool)
        if self.ignore_label is not None:
            ignored = labels == self.ignore_label
        self._check("Masks", labels[~ignored])
        self._check("Predictions", predicted)
        labels = labels.masked_fill(ignored, classes)
        pairs = (labels * classes + predicted.to(labels.device)).flatten()
        counts = torch.bincount(pairs, minlength=self.counts.numel())
        self.counts += counts.view_as(self.counts).to(self.counts.device)

    def _check(self, what: str, labels: Tensor) -> None:
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if wrong.numel():
            label = "nothing" if self.ignore_label is None else self.ignore_label
            raise UserError(
                f"{what} hold labels {wrong.unique().tolist()[:8]}; classes are "
                f"0..{self.num_classes - 1}, {label} is ignored"
            )

    def compute(self) -> Confusion:
        """The counts of everything seen."""
        if not self.counts[:-1].any():
            raise UserError(
                "No labelled pixel was seen, so nothing can be measured: the masks are empty, or "
                "hold nothing but the ignored label"
            )
        return Confusion(self.counts[:-1], self.counts[-1], self.ignore_label)


def check_protocol(protocol: str) -> None:
    """Refuses words that are no protocol."""
    if protocol not in PROTOCOLS:
        raise UserError(f"model.protocol is {' or '.join(PROTOCOLS)}, got {protocol!r}")


def divergence(logits: Float[Tensor, "members *pixels classes"]) -> Float[Tensor, "*pixels"]:
    """Jensen–Shannon: the entropy of the mean less the mean entropy (Baranchuk et al. 2022).

    The mean is renormalised and kept off 0 and 1 before its logarithm, as by torch's Categorical.
    """
    logs = logits.log_softmax(-1)
    shares = logs.exp()
    member_entropy = -(shares * logs).sum(-1).mean(0)
    mean = shares.mean(0)
    mean = mean / mean.sum(-1, keepdim=True)
    least = torch.finfo(mean.dtype).eps
    return -(mean * mean.clamp(least, 1 - least).log()).sum(-1) - member_entropy


def top_tenth(pixels: Float[Tensor, "*pixels"]) -> Float[Tensor, ""]:
    """A picture's uncertainty: the mean of its most uncertain tenth of pixels."""
    return pixels.flatten().topk(max(1, pixels.numel() // 10)).values.mean()
