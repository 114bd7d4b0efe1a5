"""Latents matched by codes at the same places: numpy's correlations, permutations found again."""

import numpy as np
import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.matching import CodeCorrelation, matched_latents


def codes(tokens=200, latents=6, seed=0):
    return torch.randn(tokens, latents, generator=torch.Generator().manual_seed(seed)).relu()


def test_correlations_are_numpys_in_any_order():
    first, second = codes(), codes(latents=4, seed=1)
    second[:, 2] = 0  # never active
    metric = CodeCorrelation(6, 4)
    for part in (slice(120, 200), slice(0, 50), slice(50, 120)):
        metric.update(first[part], second[part])
    found = metric.compute()
    seen = [0, 1, 3]
    wanted = np.corrcoef(first.numpy().T, second[:, seen].numpy().T)[:6, 6:]
    np.testing.assert_allclose(found[:, seen].numpy(), wanted, atol=1e-6)
    assert found[:, 2].isnan().all()
    with pytest.raises(UserError, match="two tokens or more"):
        CodeCorrelation(2, 2).compute()


def test_a_permuted_dictionary_is_found_again():
    first, order = codes(), torch.tensor([3, 0, 5, 1, 4, 2])
    metric = CodeCorrelation(6, 6)
    metric.update(first, 2.5 * first[:, order])
    found = matched_latents(metric.compute())
    assert torch.equal(order[found.partners], torch.arange(6))
    assert found.mean == pytest.approx(1)


def test_latents_that_are_left_over_have_no_partner():
    metric = CodeCorrelation(6, 4)
    metric.update(codes(), codes()[:, 2:])
    found = matched_latents(metric.compute())
    assert found.partners.tolist() == [-1, -1, 0, 1, 2, 3]
    assert found.correlations.isnan().tolist() == [True, True, *[False] * 4]
