"""Seeds and permutations that depend on nothing but some integers."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """One 63-bit seed of several integers (chained SplitMix64, Steele et al. 2014)."""
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 1


def permutation(count: int, *words: int, dtype: torch.dtype = torch.int64) -> Int[Tensor, "count"]:
    """A permutation that depends on nothing but the count and these integers."""
    generator = torch.Generator().manual_seed(mix(*words))
    return torch.randperm(count, generator=generator, dtype=dtype)


def entropy(*words: int) -> int:
    """One 63-bit seed of several integers, mixed by NumPy: neighbours give unlike streams."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def resamples(count: int, draws: int) -> Iterator[Int64[Tensor, " count"]]:
    """As many of `count` things drawn with replacement, again and again (Efron's bootstrap)."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        yield torch.randint(count, (count,), generator=generator)
