"""A shift half under two codes at once: both gradients from one way down, mixed (PDAE)."""

from copy import copy
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.autoencoders.shift_half import ShiftHalf
from diffdict.backbones.pdae import Pdae


@no_type_check
class MixedShift(nn.Module):
    """Takes codes side by side, the first's entries before the second's, and a share a picture."""

    def __init__(self, shift: ShiftHalf) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, skips, time, codes):
        """From the first (share 0) to the second code's gradient (1)."""
        width = (codes.shape[1] - 1) // 2
        first, second, share = codes.split([width, width, 1], dim=1)
        gradients = (self.shift(skips, time, each) for each in (first, second))
        return torch.lerp(*gradients, share[:, :, None, None])


def mixing(pdae: Pdae) -> Pdae:
    """The same network, whose shift half takes two codes and a share; nothing is copied."""
    other = copy(pdae)
    other._modules = {**pdae._modules, "shift": MixedShift(pdae.shift)}
    return other


def side_by_side(
    first: Float[Tensor, "batch code"],
    second: Float[Tensor, "batch code"],
    share: Float[Tensor, " batch"],
) -> Float[Tensor, "batch both"]:
    """What a mixed shift half takes."""
    return torch.cat([first, second, share[:, None]], dim=1)
