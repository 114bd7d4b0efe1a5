"""Which single feature tells each attribute best: chosen on some pictures, measured on others."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from diffdict.metrics.attributes.attribute_scores import attribute_figures

PIECE = 2**24  # scores that are ranked at once


class BestPredictors(NamedTuple):
    """Of each attribute the feature, which way it points, and what it is worth."""

    feature: Int64[Tensor, " attributes"]
    sign: Float[Tensor, " attributes"]  # -1: the less of the feature, the more of the attribute
    chosen_by: Float64[Tensor, " attributes"]  # its figure on the pictures it was chosen on
    figure: Float64[Tensor, " attributes"]  # on the others; nan where they do not tell


def best_predictors(
    train: tuple[Float[Tensor, "n features"], Float[Tensor, "n attributes"]],
    test: tuple[Float[Tensor, "m features"], Float[Tensor, "m attributes"]],
    binary: Bool[Tensor, " attributes"],
) -> BestPredictors:
    """Average precision of binary attributes, Pearson's r of numbers; both ways of each feature."""
    figures = torch.cat([signed_figures(*train, binary, sign) for sign in (1.0, -1.0)])
    value, place = figures.nan_to_num(-2).max(0)
    count = train[0].shape[1]
    feature, sign = place % count, torch.where(place < count, 1.0, -1.0)
    scores = test[0][:, feature] * sign  # one score an attribute
    figure = attribute_figures(scores[:, None], test[1], binary)[0]
    return BestPredictors(feature, sign, value.where(value > -2, torch.nan), figure)


def signed_figures(
    features: Float[Tensor, "n features"],
    truth: Float[Tensor, "n attributes"],
    binary: Bool[Tensor, " attributes"],
    sign: float,
) -> Float64[Tensor, "features attributes"]:
    """What each feature alone is worth."""
    step = max(1, PIECE // (len(truth) * max(1, truth.shape[1])))
    each = [
        attribute_figures(
            (sign * some)[:, :, None].expand(-1, -1, truth.shape[1]).contiguous(), truth, binary
        )
        for some in features.split(step, dim=1)
    ]
    return torch.cat(each)
