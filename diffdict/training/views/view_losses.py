"""The losses of two views of the same pictures: contrastive, or pulled together alone."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def nt_xent(
    first: Float[Tensor, "n width"], second: Float[Tensor, "n width"], temperature: float
) -> Float[Tensor, ""]:
    """Each view is to be likest its other one among all 2n - 1 (Chen et al. 2020, eq. 1)."""
    both = F.normalize(torch.cat([first, second]), dim=1)
    n = len(first)
    logits = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    twins = torch.arange(2 * n, device=both.device).roll(n)
    return F.cross_entropy(logits, twins)


def negative_cosine(
    predicted: Float[Tensor, "n width"], target: Float[Tensor, "n width"]
) -> Float[Tensor, ""]:
    """Minus the cosine to a target that is not moved (Chen & He 2021, eq. 1 and 3)."""
    return -F.cosine_similarity(predicted, target.detach(), dim=1).mean()


def spread(projected: Float[Tensor, "n width"]) -> Float[Tensor, ""]:
    """How differently pictures are projected: 0 all alike, which is collapse; 1 in all directions.

    The mean deviation of the entries of unit vectors, times the root of their number (Chen & He
    2021, sec. 4.1).
    """
    unit = F.normalize(projected.detach().float(), dim=1)
    return unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5
