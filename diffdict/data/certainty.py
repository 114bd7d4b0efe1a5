"""Which pictures of a synthetic set to learn from: those whose labels are certain."""

import math

import numpy as np
from jaxtyping import Float, Int64

from diffdict.errors import UserError

RULES = ("published", "portion")
OFFSET = 30  # so many of the most certain go too, and as many more of the uncertain stay


def keep_certain(
    uncertainties: Float[np.ndarray, " pictures"], rule: str, portion: float, name: str
) -> Int64[np.ndarray, " kept"]:
    """Where the pictures to learn from stand, the most certain first (portion 0: all, as they lie).

    `portion` drops that share of the most uncertain. `published` then moves what is kept by 30
    towards the uncertain end (Baranchuk et al. 2022, as their code does it).
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
    kept = order[OFFSET : OFFSET - dropped]
    if not len(kept):
        raise UserError(
            f"dataset.filter=published leaves none of the {len(order)} pictures of {name}: it "
            f"drops the {OFFSET} most certain too, and at dataset.filter_portion={portion} needs "
            f"{math.ceil((OFFSET + 1) / portion)} or more. dataset.filter=portion drops the most "
            "uncertain only"
        )
    return kept
