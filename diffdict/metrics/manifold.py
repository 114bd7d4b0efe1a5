"""Improved precision and recall of what was drawn (Kynkäänniemi et al. 2019), by balls of k."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.retrieval import check_search

ROWS = 512  # of one block of distances


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]."""

    precision: float  # of what was drawn: inside a ball of a real vector
    recall: float  # of what is real: inside a ball of a drawn vector


def precision_recall(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "m _"], k: int = 3
) -> PrecisionRecall:
    """A vector's ball reaches to its k-th neighbour of its own kind, itself not counted."""
    check_search(real, drawn)
    real, drawn = real.double(), drawn.double()
    of_real, of_drawn = ball_radii(real, k), ball_radii(drawn, k)
    return PrecisionRecall(_covered(drawn, real, of_real), _covered(real, drawn, of_drawn))


def ball_radii(vectors: Float[Tensor, "n d"], k: int = 3) -> Float[Tensor, " n"]:
    """Squared distance to the k-th neighbour, in float64."""
    if not 1 <= k < len(vectors):
        raise UserError(
            f"A ball reaches to the k-th of the other vectors, got k={k} for {len(vectors)} of "
            f"them: at least {k + 1} are needed"
        )
    vectors = vectors.double()
    return torch.cat(
        [_squared(part, vectors).kthvalue(k + 1, dim=1).values for part in vectors.split(ROWS)]
    )


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """The share of points that lie in any ball."""
    inside = [(_squared(part, centres) <= radii).any(1) for part in points.split(ROWS)]
    return float(torch.cat(inside).double().mean())


def _squared(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
