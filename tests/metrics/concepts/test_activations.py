"""Floors of every activation rule, and quantiles from histograms against sorted activations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffdict.errors import UserError
from diffdict.metrics.concepts.activations import (
    BINS,
    Activations,
    find_floors,
    from_ordered,
    to_ordered,
)
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK

LATENTS = 6


def variant(name):
    torch.manual_seed(0)
    sae = {
        "relu": lambda: Relu(3, latents=LATENTS),
        "gated": lambda: Gated(3, latents=LATENTS),
        "jumprelu": lambda: JumpRelu(3, latents=LATENTS, threshold=0.7),
        "batch_topk": lambda: BatchTopK(3, latents=LATENTS, k=2),
        "matryoshka": lambda: Matryoshka(3, latents=LATENTS, k=2, groups=(0.5, 0.5)),
    }[name]()
    for own in ("b_enc", "r_mag", "b_mag"):
        if hasattr(sae, own):
            getattr(sae, own).data.normal_()
    if name in ("batch_topk", "matryoshka"):
        sae.threshold.fill_(0.3)
    return sae.requires_grad_(False)


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_integers_keep_the_order_of_numbers(a, b):
    x = torch.tensor([a, b])
    assert torch.equal(from_ordered(to_ordered(x)), x)
    first, second = to_ordered(x).tolist()
    assert (first < second) == (a < b)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu", "batch_topk", "matryoshka"])
@pytest.mark.parametrize("code", [0.0, 0.5])
def test_a_floor_is_the_last_number_without_a_code(name, code):
    sae = variant(name)
    floors = find_floors(sae.activate, LATENTS, code)
    assert (sae.activate(floors[None]) <= code).all()
    assert (sae.activate(torch.nextafter(floors, torch.tensor(torch.inf))[None]) > code).all()


def test_floors_of_ranked_latents_are_where_the_largest_are_rectified():
    sae = TopK(3, latents=LATENTS, k=3)
    floors = find_floors(sae.activate, LATENTS, ranked=sae.ranked)
    pre = torch.randn(50, LATENTS, generator=torch.Generator().manual_seed(0)) - 1
    first = torch.zeros_like(pre).scatter_(1, pre.topk(3).indices, 1) > 0
    assert torch.equal((pre > floors) & first, sae.activate(pre) > 0)


def test_floors_at_the_ends():
    sae = variant("batch_topk")
    sae.threshold.fill_(torch.inf)
    assert find_floors(sae.activate, LATENTS).isinf().all()
    with pytest.raises(UserError, match="nothing is inactive"):
        find_floors(lambda pre: pre.exp() + 1, LATENTS)


@given(st.integers(0, 1000), st.floats(-3, 3), st.booleans())
def test_quantiles_are_those_of_sorted_activations(seed, floor, ranked):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, LATENTS, 9, 11, generator=generator) * 2
    floors = floor + torch.rand(LATENTS, generator=generator)
    metric = Activations(floors, ranked=3 if ranked else None)
    for some in maps.split(2):
        metric.update(some)
    histogram = metric.compute()
    tokens = maps.permute(0, 2, 3, 1).flatten(0, 2)
    kept = tokens > floors
    if ranked:
        kept &= tokens >= tokens.topk(3).values[:, -1:]
    assert torch.equal(histogram.density, kept.double().mean(0))
    shares = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    ours = histogram.quantiles(shares.tolist())
    assert (ours.diff(dim=1) >= 0).all()
    assert torch.equal(ours[:, 0], floors)
    for latent in kept.any(0).nonzero()[:, 0].tolist():
        own = tokens[kept[:, latent], latent] - floors[latent]
        for share, threshold in zip(shares.tolist()[1:], ours[latent, 1:], strict=True):
            # the two order statistics around it: between them a quantile is a convention
            low, high = (
                torch.quantile(own, share, interpolation=end) for end in ("lower", "higher")
            )
            before = own[own < low].max() if (own < low).any() else low * 0
            height = threshold - floors[latent]
            assert before * 15 / 16 - 1e-5 <= height <= high * 17 / 16 + 1e-5


def test_many_activations_have_the_quantiles_of_another_library():
    maps = torch.randn(1, 2, 200, 200, generator=torch.Generator().manual_seed(0)).exp() - 0.5
    metric = Activations(torch.zeros(2))
    metric.update(maps)
    shares = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
    ours = metric.compute().quantiles(shares)
    for latent, own in enumerate(maps[0].flatten(1)):
        theirs = torch.quantile(own[own > 0], torch.tensor(shares))
        torch.testing.assert_close(ours[latent], theirs, rtol=0.02, atol=0)  # within a bin: 1/16


def test_thinned_floors_give_a_density():
    maps = torch.randn(4, LATENTS, 32, 32, generator=torch.Generator().manual_seed(0))
    metric = Activations(torch.zeros(LATENTS))
    metric.update(maps)
    wanted = torch.tensor([0.01, 0.05, 0.1, 0.2, 0.4, 0.9])
    floors = metric.compute().thinned(wanted)
    got = (maps > floors[:, None, None]).double().mean((0, 2, 3))
    torch.testing.assert_close(got[:5], wanted[:5].double(), rtol=0.1, atol=0.002)
    assert floors[5] == 0  # no denser than it is


def test_latents_that_are_never_active_keep_their_floors():
    metric = Activations(torch.tensor([5.0, torch.inf]))
    metric.update(torch.randn(1, 2, 4, 4))
    histogram = metric.compute()
    assert histogram.density.tolist() == [0, 0]
    assert histogram.quantiles([0.0, 0.5])[0].tolist() == [5, 5]
    assert histogram.quantiles([0.0, 0.5])[1].isinf().all()
    assert not histogram.thinned(torch.tensor([0.1, 0.1])).isnan().any()


@given(st.lists(st.floats(0, 1e9, width=32), min_size=1, max_size=30))
def test_edges_bound_what_their_bins_hold(heights):
    metric = Activations(torch.zeros(1))
    metric.update(torch.tensor(heights).view(1, 1, 1, -1))
    histogram = metric.compute()
    edges = histogram.edges
    assert len(edges) == BINS + 1
    positive = torch.tensor([height for height in heights if height > 0], dtype=torch.float64)
    place = (torch.bucketize(positive, edges, right=True) - 1).clamp(0, BINS - 1)
    assert torch.equal(histogram.counts[0], torch.bincount(place, minlength=BINS))


def test_a_user_is_told():
    with pytest.raises(UserError, match="A floor is a number"):
        Activations(torch.tensor([0.0, -torch.inf]))
    metric = Activations(torch.zeros(2))
    with pytest.raises(UserError, match="No token"), pytest.warns(match="compute"):
        metric.compute()
    metric.update(torch.ones(1, 2, 3, 3))
    with pytest.raises(UserError, match="from 0 to 1"):
        metric.compute().quantiles([1.5])
