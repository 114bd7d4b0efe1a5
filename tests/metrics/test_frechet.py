"""The Fréchet distance against its laws and SciPy's matrix root; sums that any shards share."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics import frechet
from diffdict.metrics.frechet import FeatureStatistics, Statistics, frechet_distance


def rows(number: int, dim: int = 24, seed: int = 0) -> Tensor:
    """Features of unequal and correlated directions, off zero."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dim, dim, generator=random, dtype=torch.float64)
    return torch.randn(number, dim, generator=random, dtype=torch.float64) @ mixed + 3 * mixed[0]


def statistics(*parts: Tensor) -> Statistics:
    metric = FeatureStatistics(parts[0].shape[1])
    for part in parts:
        metric.update(part)
    return metric.compute()


def by_matrix_root(first: Statistics, second: Statistics) -> float:
    (mu1, sigma1), (mu2, sigma2) = ([x.numpy() for x in each] for each in (first, second))
    root = scipy.linalg.sqrtm(sigma1 @ sigma2)
    return ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * root.real)


@pytest.mark.parametrize("ranks", [(200, 200), (200, 10), (10, 200), (10, 8), (20, 20)])
def test_eigenvalues_and_singular_values_agree_whatever_the_ranks(ranks, monkeypatch):
    """The quick way and the sure one, where both, one or none is of full rank."""
    first, second = (statistics(rows(n, seed=i)) for i, n in enumerate(ranks))
    sure = []
    inner = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda x: sure.append(x.shape) or inner(x))
    quick = frechet_distance(*first, *second)
    assert not sure
    monkeypatch.setattr(frechet, "SEEN", 0)
    torch.testing.assert_close(frechet_distance(*first, *second), quick, rtol=1e-7, atol=0)
    assert sure == [tuple(min(24, n - 1) for n in ranks)]


def test_what_rounding_would_blur_is_measured_by_singular_values(monkeypatch):
    """Directions a million times smaller than others: their roots are lost in eigenvalues."""
    scale = torch.logspace(0, -9, 24, dtype=torch.float64)
    first = statistics(rows(200).div(rows(200).std(0)) * scale)
    sure, inner = [], torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda x: sure.append(x) or inner(x))
    same = frechet_distance(*first, first.mu, first.sigma * (1 + 1e-6))
    assert len(sure) == 1
    wanted = first.sigma.trace() * ((1 + 1e-6) ** 0.5 - 1) ** 2
    assert abs(same - wanted) < 1e-14


def test_what_does_not_vary_is_as_far_as_it_is_shifted():
    still, moving = statistics(torch.ones(5, 24)), statistics(rows(200))
    got = frechet_distance(*still, *moving)
    wanted = (1 - moving.mu).square().sum() + moving.sigma.trace()
    torch.testing.assert_close(got, wanted)
    assert frechet_distance(*still, *still) == 0


@pytest.mark.parametrize("number", [200, 10], ids=["full rank", "singular"])
def test_equals_scipys_matrix_root(number):
    first, second = statistics(rows(number)), statistics(rows(number, seed=1))
    got = frechet_distance(*first, *second)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(by_matrix_root(first, second), rel=1e-6)
    assert frechet_distance(*second, *first).item() == pytest.approx(got.item(), rel=1e-12)


def test_singular_covariances_have_the_closed_value_of_their_rows():
    """tr √(S1 S2) is the sum of the singular values of X1 X2ᵀ, whatever the rank."""
    one, two = rows(7, 40), rows(9, 40, seed=1)
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (one, two)]
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    wanted = (one.mean(0) - two.mean(0)).square().sum() - 2 * overlap
    wanted += sum(x.square().sum() for x in centred)
    got = frechet_distance(*statistics(one), *statistics(two))
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=0)


@pytest.mark.parametrize("number", [200, 10])
def test_nothing_lies_between_a_set_and_itself(number):
    same = statistics(rows(number))
    assert 0 <= frechet_distance(*same, *same).item() < 1e-11 * same.sigma.trace().item()


@pytest.mark.parametrize("number", [200, 10])
def test_a_shift_is_its_square(number):
    mu, sigma = statistics(rows(number))
    shift = torch.arange(24.0, dtype=torch.float64)
    got = frechet_distance(mu, sigma, mu + shift, sigma)
    torch.testing.assert_close(got, shift.square().sum())


def test_gaussians_that_commute_have_a_closed_form():
    first, second = torch.tensor([4.0, 9.0, 0.0]), torch.tensor([1.0, 4.0, 2.0])
    got = frechet_distance(torch.zeros(3), first.diag(), torch.ones(3), second.diag())
    wanted = 3 + (first.sqrt() - second.sqrt()).square().sum().double()
    torch.testing.assert_close(got, wanted, check_dtype=False, rtol=1e-6, atol=0)


def test_arrays_are_taken_like_tensors():
    first, second = statistics(rows(50)), statistics(rows(50, seed=1))
    arrays = [x.numpy() for x in (*first, *second)]
    assert torch.equal(frechet_distance(*arrays), frechet_distance(*first, *second))


def test_sums_equal_numpys_moments_on_any_shards():
    features = rows(90).float()
    whole = statistics(features)
    np.testing.assert_allclose(whole.mu, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.sigma, np.cov(features.double().T), rtol=1e-9)
    for split in ([30, 30, 30], [1, 88, 1]):
        for ours, theirs in zip(statistics(*features.split(split)), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_ranks_add_up():
    features = rows(40)
    parts = [FeatureStatistics(24) for _ in range(2)]
    for part, own in zip(parts, features.chunk(2), strict=True):
        part.update(own)
    parts[0].number += parts[1].number  # what a sum over ranks does
    parts[0].total += parts[1].total
    parts[0].second += parts[1].second
    for ours, theirs in zip(parts[0].compute(), statistics(features), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_half_precision_leaves_the_sums_exact():
    metric = FeatureStatistics(4).half()
    metric.update(torch.full((3, 4), 2048.5))
    assert metric.total.dtype == torch.float64
    assert metric.compute().mu.tolist() == [2048.5] * 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mu2": torch.zeros(3)}, r"mu2 must be a vector .* as wide, got \[3\] and \[2, 2\]"),
        ({"sigma1": torch.zeros(2)}, r"got \[2\] and \[2\]"),
        ({"mu2": torch.zeros(3), "sigma2": torch.eye(3)}, "equally wide, got 2 and 3"),
        ({"sigma2": torch.full((2, 2), torch.nan)}, "sigma2 must be finite"),
    ],
)
def test_statistics_that_do_not_compare_are_refused(change, says):
    fine = {"mu1": torch.zeros(2), "sigma1": torch.eye(2)}
    fine |= {"mu2": torch.zeros(2), "sigma2": torch.eye(2)}
    with pytest.raises(UserError, match=says):
        frechet_distance(**fine | change)


def test_features_that_are_no_numbers_are_refused():
    metric = FeatureStatistics(2)
    with pytest.raises(UserError, match="Features must be finite, got NaN or infinity"):
        metric.update(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(UserError, match="must be 2 wide like those before, got 3"):
        metric.update(torch.ones(1, 3))
    metric.update(torch.ones(1, 2))
    with pytest.raises(UserError, match="2 pictures or more, got 1"):
        metric.compute()
    with pytest.raises(UserError, match="1 or more, got 0"):
        FeatureStatistics(0)
