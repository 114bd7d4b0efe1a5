"""The doctor's figures against closed forms: planted channels, ranks, distances and noise."""

import math

import pytest
import torch
from scipy import stats

from diffdict.errors import UserError
from diffdict.metrics.features.feature_health import (
    FeatureHealth,
    effective_rank,
    spatial_structure,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def health(draws, grid, parts=1, **options):
    metric = FeatureHealth(draws.shape[-1], grid, **options)
    for part in draws.chunk(parts, 1):
        metric.update(part)
    return metric


def test_gamma_is_the_mean_over_the_deviation():
    tokens = drawn(1, 6, 4, 5) + torch.tensor([3.0, 0, 0, 4, 0])
    rows = tokens.flatten(0, 2).double()
    expected = rows.mean(0).norm() / rows.var(0, correction=0).sum().sqrt()
    assert health(tokens, (2, 2)).compute().gamma == pytest.approx(float(expected), rel=1e-6)


def test_massive_channels_are_those_that_were_planted_largest_first():
    tokens = drawn(1, 6, 4, 32)
    tokens[..., 7] *= 50
    tokens[..., 20] = 300
    tokens[..., 3] = 0  # dead, and no part of the median
    metric = health(tokens, (2, 2))
    figures = metric.compute()
    assert metric.massive_channels() == [20, 7]
    assert figures.massive == 2
    energy = tokens.double().square().sum((0, 1, 2))
    assert figures.massive_share == pytest.approx(float(energy[[7, 20]].sum() / energy.sum()))
    assert health(tokens, (2, 2), massive=100).massive_channels() == [20]
    assert health(torch.zeros(1, 2, 4, 3), (2, 2)).compute().massive == 0


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_effective_rank_counts_the_directions_in_use(kept):
    basis = torch.linalg.qr(drawn(8, 8).double()).Q[:, :kept]
    assert effective_rank(basis @ basis.T) == pytest.approx(kept, rel=1e-4)
    tokens = drawn(1, 40, 4, kept).double() @ basis.T[:kept]
    singular = torch.linalg.svdvals(tokens.flatten(0, 2) - tokens.flatten(0, 2).mean(0))
    shares = singular / singular.sum()
    expected = math.exp(float(torch.special.entr(shares[shares > 1e-9]).sum()))
    assert health(tokens.float(), (2, 2)).compute().effective_rank == pytest.approx(
        expected, rel=1e-3
    )


def test_structure_is_scipys_correlation_of_likeness_with_distance():
    tokens, grid = drawn(2, 12, 5), (3, 4)
    places = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))
    for picture, found in zip(tokens, spatial_structure(tokens, grid), strict=True):
        pairs = [(i, j) for i in range(12) for j in range(i)]
        cosine = [float(torch.cosine_similarity(picture[i], picture[j], dim=0)) for i, j in pairs]
        apart = [float((places[i] - places[j]).norm()) for i, j in pairs]
        assert float(found) == pytest.approx(-stats.pearsonr(cosine, apart)[0], abs=1e-5)


def test_structure_tells_a_smooth_map_from_a_shuffled_one():
    rows = torch.arange(64).div(8, rounding_mode="floor").double() / 8
    columns = torch.arange(64).remainder(8).double() / 8
    smooth = torch.stack([rows.cos(), rows.sin(), columns.cos(), columns.sin()], 1).float()
    shuffled = smooth[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    high, low = spatial_structure(torch.stack([smooth, shuffled]), (8, 8)).tolist()
    assert high > 0.8 > 0.2 > abs(low)
    assert spatial_structure(torch.ones(1, 64, 4), (8, 8)).isnan().all(), "alike everywhere"


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_noise_share_is_that_of_the_variances(noise):
    pictures = drawn(1, 4000, 1, 3, seed=1)
    draws = pictures + noise * drawn(2, 4000, 1, 3, seed=2)
    expected = noise**2 / (1 + noise**2)
    assert health(draws, (1, 1)).compute().noise_share == pytest.approx(expected, abs=0.02)


def test_nothing_but_noise_is_all_noise():
    share = health(drawn(2, 3000, 1, 2), (1, 1)).compute().noise_share
    assert share == pytest.approx(1, abs=0.03)


def test_what_cannot_be_said_is_none():
    figures = health(torch.ones(1, 1, 1, 3), (1, 1)).compute()
    assert figures[:1] + figures[3:] == (None, None, None, None)


def test_parts_and_their_order_do_not_matter():
    draws = drawn(2, 12, 6, 5)
    whole, parts = health(draws, (2, 3)).compute(), health(draws.flip(1), (2, 3), 5).compute()
    assert whole == pytest.approx(parts, rel=1e-6)


def test_a_large_grid_is_thinned():
    metric = FeatureHealth(2, (64, 64))
    assert metric.step == 2
    tokens = drawn(1, 64 * 64, 2)
    thin = tokens.unflatten(1, (64, 64))[:, ::2, ::2].flatten(1, 2)
    one = spatial_structure(tokens, (64, 64), 2)
    torch.testing.assert_close(one, spatial_structure(thin, (32, 32)))


def test_a_factor_of_one_is_refused():
    with pytest.raises(UserError, match="massive is a factor above 1, got 1: 10"):
        FeatureHealth(2, (2, 2), massive=1)
