"""Effects of an edit on pictures made by hand: what went, where, and into what."""

import math

import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.effects import (
    ELSEWHERE,
    INSIDE,
    NEAR,
    Effects,
    rank_share,
    zones_of,
)


def pictures(number=4, side=64):
    """A square of class 1 of 8 × 8 pixels in class 0, in `number` pictures."""
    off = torch.zeros(number, side, side, dtype=torch.int64)
    off[:, 8:16, 8:16] = 1
    return off


def measured(off, on, label=1, margin=4, classes=3):
    metric = Effects(classes, margin)
    metric.update(off, on, off == label)
    return metric.compute()


def test_a_picture_that_did_not_change_keeps_everything():
    off = pictures()
    found = measured(off, off)
    assert found.kept(1) == 1
    assert found.error(1) == 0
    assert found.outside == 0
    assert found.area(1) == 1
    assert found.became(1) == []
    assert found.transitions.sum() == off.numel()


def test_what_went_is_counted_where_it_went():
    off, on = pictures(), pictures()
    on[0, 8:16, 8:12] = 2  # half of one picture's class
    on[1, 8:16, 8:16] = 0  # all of another's
    on[2, 40:44, 40:44] = 2  # far away
    on[3, 17, 8] = 2  # near
    found = measured(off, on)
    assert found.kept(1) == pytest.approx((0.5 + 0 + 1 + 1) / 4, abs=1e-8)
    spread = torch.tensor([0.5, 0, 1, 1]).std() / 2
    assert found.error(1) == pytest.approx(float(spread), abs=1e-6)
    near = int((zones_of(off == 1, 4) == NEAR).sum())
    far = off.numel() - near - 4 * 64
    assert found.outside == pytest.approx(16 / far)
    assert found.transitions[NEAR, 0, 2] == 1
    assert found.transitions[INSIDE, 1].tolist() == [64, 160, 32]
    assert found.became(1) == [(0, 0.25), (2, 0.125)]
    assert found.area(1) == 160 / 256


def test_order_of_pictures_and_batches_changes_nothing():
    off = torch.randint(0, 3, (7, 32, 32), generator=torch.Generator().manual_seed(0))
    on = torch.randint(0, 3, (7, 32, 32), generator=torch.Generator().manual_seed(1))
    whole = measured(off, on, 2, 2)
    metric = Effects(3, 2)
    for i in (5, 0, 3, 6, 1, 2, 4):
        metric.update(off[i : i + 1], on[i : i + 1], off[i : i + 1] == 2)
    for ours, theirs in zip(metric.compute(), whole, strict=True):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


def test_a_picture_with_too_few_pixels_is_left_out():
    off = pictures(3)
    off[0] = 0
    off[0, 0, :11] = 1
    off[1] = 0
    off[1, 0, :12] = 1
    assert measured(off, off).pictures == 2
    none = measured(torch.zeros_like(off), off)
    assert none.pictures == 0
    assert math.isnan(none.kept(1))
    assert math.isnan(none.outside)


def test_a_region_may_be_the_truth_instead_of_what_was_said():
    off, truth = pictures(), torch.zeros(4, 64, 64, dtype=torch.bool)
    truth[:, 8:16, 8:24] = True
    metric = Effects(3, 4)
    metric.update(off, off, truth)
    assert metric.compute().kept(1) == 0.5


def test_zones_lie_around_the_region():
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, 8, 8] = True
    zones = zones_of(region, 2)[0]
    assert zones[8, 8] == INSIDE
    assert (zones == NEAR).sum() == 24
    assert zones[8, 11] == ELSEWHERE


def test_p_is_a_rank_among_controls():
    assert rank_share(0.9, [0.1, 0.2, 0.3, 0.4]) == 0.2
    assert rank_share(0.15, [0.1, 0.2, 0.3, 0.4]) == 0.8
    assert math.isnan(rank_share(0.5, []))


def test_other_labels_are_refused():
    off = pictures()
    with pytest.raises(UserError, match=r"0..2, got 0 to 7"):
        measured(off, torch.where(off == 1, 7, off))
    with pytest.raises(UserError, match="margin"):
        Effects(3, -1)


def test_changes_are_measured_in_the_region_and_away_from_it():
    off = pictures(2)
    change = torch.zeros(2, 64, 64)
    change[:, 8:16, 8:16] = 0.25
    change[0, 60, 60] = 1.0
    metric = Effects(3, 4)
    metric.update(off, off, off == 1, change)
    found = metric.compute()
    assert found.zone_rms(INSIDE) == pytest.approx(0.5, rel=1e-6)
    away = int((zones_of(off == 1, 4) == ELSEWHERE).sum())
    assert found.zone_rms(ELSEWHERE) == pytest.approx((1 / away) ** 0.5, rel=1e-6)
    assert found.zone_rms(NEAR) == 0
    assert found.rms == pytest.approx(float(change.mean() ** 0.5), rel=1e-6)
    parts = [Effects(3, 4), Effects(3, 4)]
    for i, part in enumerate(parts):
        part.update(off[i : i + 1], off[i : i + 1], off[i : i + 1] == 1, change[i : i + 1])
    joined = parts[0].compute().joined(parts[1].compute())
    for ours, theirs in zip(joined, found, strict=True):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
