"""How alike two pictures are, one number a pair, on [0, 1] and with borders as published."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError

WINDOW, SIGMA = 11, 1.5  # of the Gaussian through which SSIM looks
C1, C2 = 0.01**2, 0.03**2


def ssim(
    a: Float[Tensor, "batch channels height width"], b: Float[Tensor, "..."]
) -> Float[Tensor, " batch"]:
    """Structural similarity (Wang et al. 2004) of pictures on [0, 1], zeros beyond their borders.

    torchmetrics leaves the borders out, and answers otherwise. Variances are differences of means,
    of which half precision would leave nothing.
    """
    check_pair(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return _ssim(as_matrix(a), as_matrix(b))


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    channels = a.shape[1]
    place = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    line = line / line.sum()
    window = torch.outer(line, line).expand(channels, 1, WINDOW, WINDOW)

    def local(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=WINDOW // 2, groups=channels)

    mean_a, mean_b = local(a), local(b)
    variance_a = local(a * a) - mean_a**2
    variance_b = local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    most = (mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2)
    return (alike / most).flatten(1).mean(1)


def mse(
    a: Float[Tensor, "batch channels height width"], b: Float[Tensor, "..."]
) -> Float[Tensor, " batch"]:
    """Mean squared difference."""
    check_pair(a, b)
    return ((as_matrix(a) - as_matrix(b)) ** 2).flatten(1).mean(1)


def as_matrix(x: Tensor) -> Tensor:
    """The pictures in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_pair(a: Tensor, b: Tensor) -> None:
    """Pictures are compared one with one."""
    if a.shape != b.shape:
        raise UserError(
            f"Pictures are compared with pictures of their size, got {list(a.shape)} and "
            f"{list(b.shape)}: resize one of them"
        )
