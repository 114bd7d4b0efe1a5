"""What is drawn is what was counted: upsample, encode, compare, done naively."""

import pytest
import torch
from torch.nn import functional as F

from diffdict.metrics.concepts.overlap import Concepts
from diffdict.reports.concepts.heights import heights

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
