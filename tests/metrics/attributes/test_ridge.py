"""Ridge regression in closed form: least squares as scipy finds it, prefixes as separate solves."""

import numpy as np
import pytest
import scipy.linalg
import torch

from diffdict.metrics.attributes.ridge import AttributeSums


def problem(pictures=90, channels=7, attributes=4, seed=0, unknown=0.0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(pictures, channels)) @ generator.normal(size=(channels, channels))
    x += generator.normal(size=channels) * 5
    y = x @ generator.normal(size=(channels, attributes)) + generator.normal(
        size=(pictures, attributes)
    )
    y[generator.random(y.shape) < unknown] = np.nan
    return torch.tensor(x), torch.tensor(y)


def answers(sums, x, ridge, ends):
    """Every group's scores of these rows at these prefixes, in the attributes' own order."""
    found = None
    for group in sums.groups():
        rows = group.standardized(x)
        for place, scores in enumerate(group.prefix_scores(rows, ridge, ends)):
            found = torch.zeros(len(ends), len(x), sums.cross.shape[1]) if found is None else found
            found[place][:, group.attributes] = scores.float()
    return found


@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_without_a_ridge_it_is_least_squares_on_what_is_known(unknown):
    x, y = problem(unknown=unknown)
    sums = AttributeSums(7, 4)
    for start in range(0, 90, 13):
        sums.update(x[start : start + 13], y[start : start + 13])
    told = answers(sums, x, 1e-13, [7])[0]
    for column in range(4):
        known = ~y[:, column].isnan()
        design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        weight, *_ = scipy.linalg.lstsq(design[known], y[known, column].numpy())
        np.testing.assert_allclose(told[:, column], design @ weight, atol=2e-3)


def test_prefixes_from_one_factor_are_those_of_separate_solves():
    x, y = problem(unknown=0.1)
    sums, ends = AttributeSums(7, 4), [1, 3, 4, 7]
    sums.update(x, y)
    together = [list(g.prefix_scores(g.standardized(x), 0.1, ends)) for g in sums.groups()]
    for group, each in zip(sums.groups(), together, strict=True):
        rows = group.standardized(x)
        for end, scores in zip(ends, each, strict=True):
            alone = group.scores(rows, 0.1, slice(0, end))
            torch.testing.assert_close(scores, alone, atol=1e-12, rtol=0)


def test_a_ridge_is_that_of_standardized_features():
    x, y = problem()
    sums = AttributeSums(7, 4)
    sums.update(x, y)
    told = answers(sums, x, 0.5, [7])[0]
    z = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    weight = np.linalg.solve(z.T @ z / len(z) + 0.5 * np.eye(7), z.T @ (y - y.mean(0)).numpy() / 90)
    np.testing.assert_allclose(told, z @ weight + y.mean(0).numpy(), rtol=1e-5, atol=1e-5)


def test_a_channel_that_never_changes_says_nothing():
    x, y = problem()
    still = torch.cat([x, torch.full((90, 1), 1e4, dtype=x.dtype)], dim=1)
    sums, more = AttributeSums(7, 4), AttributeSums(8, 4)
    sums.update(x, y)
    more.update(still, y)
    torch.testing.assert_close(
        answers(more, still, 0.1, [8]), answers(sums, x, 0.1, [7]), atol=1e-5, rtol=1e-5
    )


def test_an_order_of_channels_changes_no_whole():
    x, y = problem(unknown=0.1)
    sums, order = AttributeSums(7, 4), torch.tensor([3, 0, 6, 1, 2, 5, 4])
    sums.update(x, y)
    for group in sums.groups():
        turned, rows = group.permuted(order), group.standardized(x)
        first, whole = turned.prefix_scores(rows[:, order], 0.1, [2, 7])
        torch.testing.assert_close(whole, group.scores(rows, 0.1, slice(None)))
        assert not torch.allclose(first, group.scores(rows, 0.1, slice(0, 2)), atol=1e-3)
