"""The kernel distance against torchmetrics' own and its laws; rows that any shards choose alike."""

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from diffdict.metrics.samples.kernel_distance import ChosenRows, kernel_distance


def rows(number: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(number, 6, generator=random, dtype=torch.float64) + shift


def test_equals_torchmetrics_estimate():
    first, second = rows(40), rows(40, 0.5, seed=1)
    wanted = poly_mmd(first, second)
    assert kernel_distance(first, second).value == pytest.approx(float(wanted), rel=1e-9)


def test_as_many_of_each_are_compared():
    first, second = rows(40), rows(25, 0.5, seed=1)
    assert kernel_distance(first, second) == kernel_distance(first[:25], second)


def test_it_is_unbiased_and_its_error_says_how_far_it_strays():
    same = [kernel_distance(rows(60, seed=2 * i), rows(60, seed=2 * i + 1)) for i in range(60)]
    values = torch.tensor([each.value for each in same])
    assert abs(values.mean()) < 3 * values.std() / 60**0.5
    apart = [kernel_distance(rows(60, 1, 2 * i), rows(60, 0, 2 * i + 1)) for i in range(60)]
    values = torch.tensor([each.value for each in apart])
    told = torch.tensor([each.error for each in apart]).mean()
    assert told == pytest.approx(float(values.std()), rel=0.3)


def test_rows_are_chosen_by_their_number_alone():
    features = rows(50).float()
    whole = ChosenRows(50, 7)
    whole.update(features, torch.arange(50))
    parted = ChosenRows(50, 7)
    for part in (torch.arange(30, 50), torch.arange(0, 3), torch.arange(3, 30)):
        parted.update(features[part], part)
    assert whole.compute().shape == (7, 6)
    assert torch.equal(whole.compute(), parted.compute())
    every = ChosenRows(50, 100)
    every.update(features, torch.arange(50))
    assert torch.equal(every.compute(), features)
