"""Filters a synthetic set's training pictures by the uncertainty of their labels."""

import math

import numpy as np
from jaxtyping import Float, Int64

from diffdict.errors import UserError

RULES = ("published", "portion")
OFFSET = 30  # the published filter's shift: drops the 30 most certain, keeps 30 more uncertain


def keep_certain(
    uncertainties: Float[np.ndarray, " pictures"], rule: str, portion: float, name: str
) -> Int64[np.ndarray, " kept"]:
    """Indices of the pictures to train on, the most certain first (portion 0: all, in order).

    `portion` drops that share of the most uncertain. `published` also shifts the window by 30
    towards the uncertain end (as the code of Baranchuk et al. 2022 does).
    """
    if rule not in RULES or not 0 <= portion < 1:
        raise UserError(
            f"{name}: dataset.filter is null or one of {', '.join(RULES)}, and its portion lies in "
            f"[0, 1); got dataset.filter={rule} dataset.filter_portion={portion}"
        )
    if portion == 0:
        return np.arange(len(uncertainties))
    order = np.argsort(uncertainties, kind="stable")
    dropped = int(len(order) * portion)
    if rule == "portion":
        return order[: len(order) - dropped]
    rows = order[OFFSET : OFFSET - dropped]
    if not len(rows):
        raise UserError(
            f"dataset.filter=published leaves none of the {len(order)} pictures of {name}: it "
            f"drops the {OFFSET} most certain too, and at dataset.filter_portion={portion} needs "
            f"{math.ceil((OFFSET + 1) / portion)} or more. dataset.filter=portion drops the most "
            "uncertain only"
        )
    return rows
