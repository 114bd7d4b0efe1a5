"""How well a score tells where something is from where it is not, beside scores of other things."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float, Float64
from torch import Tensor


class Detection(NamedTuple):
    """Of one score the area under its ROC curve, beside those of scores made for other things."""

    auc: float
    others: float | None  # their mean; None: there are none
    p: float | None  # the share of all these scores that do as well as this one


def detection_auc(
    scores: Float[Tensor, "cases scores"], active: Bool[Tensor, " cases"]
) -> Float64[Tensor, " scores"]:
    """Of each score how often an active case has more than a silent one; half where they tie."""
    above = scores[active].double()[:, None]
    below = scores[~active].double()[None]
    return ((above > below).double() + (above == below).double() / 2).mean((0, 1))


def detect(
    scores: Float[Tensor, "cases scores"],
    active: Bool[Tensor, " cases"],
    own: int,
    others: Sequence[int],
) -> Detection:
    """The score in column `own`, with those in the columns `others` as its null."""
    auc = detection_auc(scores, active)
    if not others:
        return Detection(float(auc[own]), None, None)
    null = auc[list(others)]
    p = (1 + int((null >= auc[own]).sum())) / (1 + len(null))
    return Detection(float(auc[own]), float(null.mean()), p)
