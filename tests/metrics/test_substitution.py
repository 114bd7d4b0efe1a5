"""Substitution: 1 for an exact dictionary, 0 for the mean, a dash where nothing was lost."""

import math

import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.substitution import VARIANTS, Substitution


def measured(losses, parts=1):
    metric = Substitution()
    for part in range(parts):
        metric.update({name: value[part::parts] for name, value in losses.items()})
    return metric.compute()


def losses(reconstruction, mean=None):
    generator = torch.Generator().manual_seed(0)
    plain = 1 + torch.rand(12, generator=generator)
    mean = plain + 0.5 if mean is None else mean
    given = (plain, reconstruction(plain, mean), mean, plain + 0.8, plain + 0.1)
    return dict(zip(VARIANTS, given, strict=True))


def test_an_exact_dictionary_recovers_all_and_the_mean_nothing():
    exact = measured(losses(lambda plain, mean: plain))
    assert exact.recovered == exact.recovered_zero == 1
    assert measured(losses(lambda plain, mean: mean)).recovered == 0
    half = measured(losses(lambda plain, mean: (plain + mean) / 2))
    assert half.recovered == pytest.approx(0.5, abs=1e-6)
    assert half.recovered_zero == pytest.approx(1 - 0.25 / 0.8, abs=1e-6)
    assert half.excess == pytest.approx(2.5, abs=1e-5)
    assert half.error["mean"] == pytest.approx(0, abs=1e-6)


def test_changes_are_paired_and_batches_do_not_matter():
    mixed = losses(lambda plain, mean: plain + 0.2 * plain)
    found = measured(mixed)
    change = 0.2 * mixed["as_it_is"]
    assert found.change["reconstruction"] == pytest.approx(float(change.mean()), abs=1e-6)
    error = float(change.std() / 12**0.5)
    assert found.error["reconstruction"] == pytest.approx(error, rel=1e-4)
    parts = measured(mixed, 3)
    assert parts.recovered == pytest.approx(found.recovered, abs=1e-12)


def test_where_ablation_costs_nothing_there_is_a_dash():
    plain = losses(lambda plain, mean: plain)["as_it_is"]
    assert math.isnan(measured(losses(lambda p, m: p, mean=plain * 1.009)).recovered)
    noisy = plain + torch.tensor([1.0, -0.9] * 6)
    assert math.isnan(measured(losses(lambda p, m: p, mean=noisy)).recovered)


def test_it_takes_five_variants_of_some_pictures():
    with pytest.raises(UserError, match="compares as_it_is"):
        Substitution().update({"mean": torch.ones(1)})
    with pytest.raises(UserError, match="No picture"):
        Substitution().compute()
