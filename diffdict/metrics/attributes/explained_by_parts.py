"""How much of some numbers each part of a code explains: ridge in closed form, R² on others."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffdict.metrics.attributes.attribute_scores import squared_errors
from diffdict.metrics.attributes.ridge import AttributeSums, RidgeGroup
from diffdict.seeds import permutation

HELD_OUT = 4  # one of so many training pictures chooses the ridge


class CodedPictures(NamedTuple):
    """Codes of pictures, and the numbers that are to be explained."""

    codes: Float[Tensor, "pictures code"]
    numbers: Float[Tensor, "pictures numbers"]


def explained_by_parts(
    train: CodedPictures,
    test: CodedPictures,
    parts: Sequence[slice],
    ridges: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
) -> Float64[Tensor, "parts numbers"]:
    """R² on the test pictures; each part's ridge is chosen on training pictures held out."""
    order = permutation(len(train.codes), 0)
    held = order[: len(order) // HELD_OUT]
    rest = order[len(order) // HELD_OUT :]
    fitted, whole = (fit_numbers(*(x[rows] for x in train)) for rows in (rest, order))
    out = []
    for part in parts:
        tried = [
            r_squared(fitted, ridge, part, *(x[held] for x in train)).nanmean() for ridge in ridges
        ]
        best = ridges[int(torch.stack(tried).nan_to_num(-torch.inf).argmax())]
        out.append(r_squared(whole, best, part, *test))
    return torch.stack(out)


def fit_numbers(codes: Float[Tensor, "n code"], numbers: Float[Tensor, "n numbers"]) -> RidgeGroup:
    """The moments of codes and numbers, all of them known."""
    sums = AttributeSums(codes.shape[1], numbers.shape[1])
    sums.update(codes, numbers)
    (group,) = sums.groups()
    return group


def r_squared(
    group: RidgeGroup,
    ridge: float,
    part: slice,
    codes: Float[Tensor, "n code"],
    numbers: Float[Tensor, "n numbers"],
) -> Float64[Tensor, " numbers"]:
    """The share of the variance over these pictures that the part's probe tells."""
    scores = group.scores(group.standardized(codes), ridge, part)
    return squared_errors(scores[:, None], numbers)[0, :, 1]
