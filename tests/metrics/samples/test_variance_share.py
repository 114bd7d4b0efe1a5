"""The share of variance between sources: its ends, its mean over noise, and its blindness."""

import pytest
import torch

from diffdict.metrics.samples.variance_share import variance_share
from tests.inputs import normal

GROUPS = torch.arange(30).repeat_interleave(4)


def test_copies_keep_all():
    share = variance_share(normal(1, (30, 5)).repeat_interleave(4, 0), GROUPS)
    assert share.whole == pytest.approx(1)
    torch.testing.assert_close(share.each, torch.ones(5).double())


def test_noise_keeps_nothing_in_the_mean():
    shares = [variance_share(normal(seed, (120, 8)), GROUPS).whole for seed in range(20)]
    assert abs(sum(shares) / 20) < 0.01


def test_it_is_the_share_that_was_put_in_whatever_the_sizes_of_groups():
    sources, noise = normal(1, (400, 3)), normal(2, (2600, 3))
    groups = torch.arange(400).repeat_interleave(torch.arange(400) % 12 + 1)[:2600]
    vectors = 3**0.5 * sources[groups] + noise[: len(groups)]
    assert variance_share(vectors, groups).whole == pytest.approx(0.75, abs=0.03)


def test_it_sees_neither_place_nor_scale_nor_order():
    vectors = normal(1, (30, 5)).repeat_interleave(4, 0) + normal(2, (120, 5))
    share, order = variance_share(vectors, GROUPS), torch.randperm(120)
    other = variance_share(7 * vectors[order] + 100, GROUPS[order])
    torch.testing.assert_close(other.each, share.each, rtol=1e-4, atol=1e-5)


def test_without_repetition_there_is_none():
    assert variance_share(normal(1, (4, 5)), range(4)) is None
    assert variance_share(normal(1, (4, 5)), [0] * 4) is None
    flat = variance_share(torch.cat([normal(1, (8, 1)), torch.ones(8, 1)], 1), [0, 1] * 4)
    assert flat.each.isnan().tolist() == [False, True]
