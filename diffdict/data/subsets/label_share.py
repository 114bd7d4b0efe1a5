"""A share of the labelled pictures: the same ones in every run, the fewer among the more."""

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from diffdict.errors import UserError


def check_label_share(share: float | int) -> None:
    """More than nothing, and all at most."""
    if not 0 < share <= 1:
        raise UserError(
            f"data.label_share is a share of the training pictures, more than 0 and 1 at most, got "
            f"{share}: data.label_share=0.1"
        )


def share_of_labels(
    truth: Shaped[Tensor, "pictures classes"], share: float | int, seed: int, by_class: bool
) -> list[int]:
    """Numbers of the chosen pictures, rising; `by_class` as large a share of each, one at least.

    A larger share holds all of a smaller one.
    """
    order = np.random.default_rng([seed, len(truth)]).permutation(len(truth))
    groups = [order]
    if by_class:
        label = truth.long().argmax(1).masked_fill(~truth.bool().any(1), truth.shape[1]).numpy()
        groups = [order[label[order] == number] for number in np.unique(label)]
    chosen = [group[: max(1, round(share * len(group)))] for group in groups]
    return sorted(int(number) for group in chosen for number in group)
