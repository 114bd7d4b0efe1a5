"""The golden cases' inputs, made by their rule from a seed."""

import numpy as np
import torch
from torch import Tensor


def image(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Pixels in [-1, 1)."""
    pixels = np.random.default_rng(seed).random(shape, dtype=np.float32) * 2 - 1
    return torch.from_numpy(pixels)


def unit(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1)."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
