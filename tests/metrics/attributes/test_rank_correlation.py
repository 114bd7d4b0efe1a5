"""Spearman's correlation is scipy's, ties included."""

import math

import pytest
import torch
from scipy import stats

from diffdict.metrics.attributes.rank_correlation import spearman


@pytest.mark.parametrize("levels", [3, 1000])
def test_it_is_scipys(levels):
    generator = torch.Generator().manual_seed(levels)
    a, b = (torch.randint(levels, (40,), generator=generator).tolist() for _ in range(2))
    b = [x + 0.3 * y for x, y in zip(a, b, strict=True)]
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_what_is_no_number_is_left_out():
    assert spearman([1, 2, 3, math.nan], [2, 4, 8, 0]) == pytest.approx(1)
    assert math.isnan(spearman([1, 2], [1, 2]))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
