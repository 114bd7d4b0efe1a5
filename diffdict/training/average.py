"""An average of a network's weights that moves along as it trains."""

import torch
from torch import nn

AVERAGES = {  # decay of the average at an optimizer step, counted from 0: the young forget faster
    "house": lambda step: (1 + step) / (10 + step),
    "published": lambda step: 1 - (1 + step) ** (-2 / 3),  # ema_pytorch's, and so DDAE's
    "constant": lambda step: 1.0,  # no warm-up: PDAE's and DiTi's
}


def average_decay(decay: float, step: int, rule: str = "house") -> float:
    """The decay at an optimizer step, counted from 0: young averages forget faster."""
    return min(decay, AVERAGES[rule](step))


@torch.no_grad()
def update_average(average: nn.Module, moving: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 − decay) · moving; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(moving.parameters()), 1 - decay)
    for mine, its in zip(average.buffers(), moving.buffers(), strict=True):
        mine.copy_(its)
