"""Overlays show what was counted: upsample, encode, compare, done naively."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffdict.metrics.concepts import Concepts
from diffdict.reports import overlay
from diffdict.reports.overlay import STOPS, colour_bar, heights, ladder, outlined

LATENTS, GRID, SIZE = 40, (5, 7), (17, 28)


@pytest.fixture
def pre():
    return torch.randn(1, LATENTS, *GRID, generator=torch.Generator().manual_seed(0))


def naive(pre, floors, chosen, thresholds, k):
    """Everything upsampled, then the rule at each pixel."""
    large = F.interpolate(pre, SIZE, mode="bilinear")[0]
    active = large > floors[:, None, None]
    if k:
        active &= torch.zeros_like(active).scatter_(0, large.topk(k, dim=0).indices, True)
    seen = large[chosen]
    counted = active[chosen] & (seen > thresholds[:, None, None])
    return torch.where(counted, seen - floors[chosen][:, None, None], 0)


@pytest.mark.parametrize("k", [None, 3])
def test_heights_are_those_of_the_naive_way(pre, k):
    floors = torch.rand(LATENTS, generator=torch.Generator().manual_seed(1)) / 2
    chosen = torch.tensor([7, 3, 7, 39])
    thresholds = floors[chosen] + torch.tensor([0.0, 0.2, 0.5, 0.1])
    ours = heights(pre, floors, chosen, thresholds, SIZE, k)
    torch.testing.assert_close(ours, naive(pre, floors, chosen, thresholds, k))
    assert (ours > 0).flatten(1).any(1).all()


@pytest.mark.parametrize("k", [None, 3])
def test_what_is_drawn_is_what_was_counted(pre, k):
    mask = torch.arange(SIZE[0])[:, None].expand(SIZE)[None] % 2
    thresholds = torch.zeros(LATENTS, 1)
    metric = Concepts(("even", "odd"), thresholds, ranked=k)
    metric.update(pre, mask)
    drawn = heights(pre, thresholds[:, 0], torch.arange(LATENTS), thresholds[:, 0], SIZE, k) > 0
    both = torch.stack([(drawn & (mask == c)).sum((1, 2)) for c in (0, 1)])
    assert torch.equal(both, metric.compute().intersections[0])


def test_pictures_pale_where_a_latent_is_active_and_only_there_it_is_hot():
    picture = np.full((2, 3, 3), (200, 100, 0), dtype=np.uint8)
    strength = np.array([[0, 0.01, 0.5], [1, 2, 0]])
    drawn = overlay.overlay(picture, strength)
    assert (drawn[strength == 0] == (130, 100, 70)).all()
    assert (drawn[1, 0] == drawn[1, 1]).all(), "no more than the strongest"
    hot = 0.9 * ladder()[255] + 0.1 * np.array([130, 100, 70])
    np.testing.assert_allclose(drawn[1, 0], hot, atol=1)
    assert np.abs(drawn[0, 1].astype(int) - (130, 100, 70)).sum() > 50, "the weakest is seen"


def test_the_page_has_the_same_colours():
    script = (Path(overlay.__file__).parent / "page/heat.js").read_text()
    stops = json.loads(
        re.search(r"const STOPS = (\[.*?\n\]);", script, re.S)[1].replace(",\n]", "]")
    )
    assert stops == [list(stop) for stop in STOPS]
    bar = np.asarray(colour_bar(100, 4))
    assert (bar[0, 0] == STOPS[0]).all()
    assert (bar[3, -1] == STOPS[-1]).all()


def test_an_outline_lies_within_its_area_and_not_along_the_edge():
    inside = np.zeros((6, 6), dtype=bool)
    inside[1:5, 2:] = True
    drawn = outlined(np.zeros((6, 6, 3), dtype=np.uint8), inside)
    rim = drawn[..., 0] == 255
    assert not (rim & ~inside).any()
    assert rim[1, 2:].all()
    assert rim[1:5, 2].all()
    assert not rim[2:4, 3:].any()
