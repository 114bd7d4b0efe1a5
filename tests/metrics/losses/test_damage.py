"""Damage: the loss on changed pictures over that on the same ones left alone."""

import math
import warnings

import pytest
import torch

from diffdict.metrics.losses.damage import Damage


def test_it_is_the_mean_rise_over_timesteps_in_any_order():
    off = torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    on = torch.tensor([[0.2, 0.4, 0.6], [1.5, 3.0, 4.5]])
    whole, parts = Damage(2), Damage(2)
    whole.update(off, on)
    for place in (2, 0, 1):
        parts.update(off[:, place : place + 1], on[:, place : place + 1])
    found = whole.compute()
    assert found.share == pytest.approx((1.0 + 0.5) / 2, rel=1e-6)
    assert torch.equal(found.on, parts.compute().on)
    assert found.off.tolist() == pytest.approx([0.2, 2.0], rel=1e-6)


def test_without_pictures_there_is_none_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Damage(1).compute()
    assert math.isnan(found.share)
