"""Between two pictures, or along a direction: by their noise, their codes, or a part of these."""

import torch
from jaxtyping import Float
from torch import Tensor


def slerp(
    a: Float[Tensor, "batch *shape"], b: Float[Tensor, "batch *shape"], share: float
) -> Float[Tensor, "batch *shape"]:
    """From a (share 0) to b (1) along the great circle, picture by picture (Shoemake 1985)."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1)[:, None]
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    apart = sine > 1e-6  # else they lie on one line
    safe = torch.where(apart, sine, 1)
    of_a = torch.where(apart, ((1 - share) * angle).sin() / safe, 1 - share)
    of_b = torch.where(apart, (share * angle).sin() / safe, share)
    return (of_a * flat_a + of_b * flat_b).reshape(a.shape)


def exchange_parts(
    codes: Float[Tensor, "batch code"],
    others: Float[Tensor, "batch code"],
    part: slice,
    share: float = 1.0,
) -> Float[Tensor, "batch code"]:
    """The codes, of which only this part goes to the others', by a share of the way."""
    mixed = codes.clone()
    mixed[:, part] = torch.lerp(codes[:, part], others[:, part], share)
    return mixed


def move(
    codes: Float[Tensor, "batch code"],
    direction: Float[Tensor, " code"],
    mean: Float[Tensor, " code"],
    std: Float[Tensor, " code"],
    scale: float,
    length: float | None = None,
) -> Float[Tensor, "batch code"]:
    """Codes moved along a direction of normalised ones, whose length at scale 1 is √d.

    Published codes of any width were moved by `length` √512.
    """
    length = len(direction) ** 0.5 if length is None else length
    unit = direction / direction.norm()
    return ((codes - mean) / std + scale * length * unit) * std + mean
