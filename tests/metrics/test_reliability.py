"""Reliability: 1 without noise, 0 for noise alone, and between them what was made."""

import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.reliability import Reliability


def made(places, noise, draws=4, tokens=4000):
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(1, tokens, 1, generator=generator).expand(-1, -1, 2)
    fresh = torch.randn(draws, tokens, 2, generator=generator)
    return 100 + places * own + noise * fresh


def measured(codes, step=999):
    metric = Reliability(codes.shape[2])
    for start in range(0, codes.shape[1], step):
        metric.update(codes[:, start : start + step])
    return metric.compute()


def test_without_noise_it_is_one_and_noise_alone_is_none():
    assert torch.equal(measured(made(1, 0)), torch.ones(2, dtype=torch.float64))
    assert measured(made(0, 1)).max() < 0.03


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_a_made_gaussian_has_what_was_made(noise):
    assert measured(made(1, noise)) == pytest.approx([1 / (1 + noise**2)] * 2, abs=0.04)


def test_batches_do_not_matter_and_a_constant_has_none():
    codes = made(1, 1, tokens=100)
    assert torch.allclose(measured(codes, 7), measured(codes, 100), atol=1e-12)
    assert measured(torch.zeros(3, 9, 2)).isnan().all()


def test_it_needs_draws_and_tokens():
    with pytest.raises(UserError, match="got 1: draws=8"):
        Reliability(2).update(torch.zeros(1, 5, 2))
    with pytest.raises(UserError, match="two tokens"):
        Reliability(2).compute()
