"""What latents do in a stream of pictures, against all of it held at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffdict.reports.concepts.strongest import BINS, Strongest
from diffdict.sae.sparse import Codes

LATENTS, GRID, TOP = 30, (3, 4), 4


def sparse(dense):
    token, latent = dense.nonzero(as_tuple=True)
    counts = torch.bincount(token, minlength=len(dense))
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Codes(starts, latent, dense[token, latent])


def draw(pictures, seed, density=0.1):
    """Codes [pictures, tokens, latents]; latent 0 is never active."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(pictures, GRID[0] * GRID[1], LATENTS, generator=generator) * 5
    kept = torch.rand(values.shape, generator=generator) < density
    kept[..., 0] = False
    return values * kept


def seen(codes, order=None):
    strongest = Strongest(LATENTS, GRID, TOP)
    for picture in order or range(len(codes)):
        strongest.add(picture, sparse(codes[picture]))
    return strongest


@settings(max_examples=20)
@given(pictures=st.integers(1, 12), seed=st.integers(0, 1000))
def test_top_maps_are_those_of_the_largest_maxima(pictures, seed):
    codes = draw(pictures, seed)
    strongest = seen(codes)
    for latent in range(LATENTS):
        maxima = codes[:, :, latent].amax(1)
        best = maxima.sort(descending=True, stable=True).indices[:TOP]
        best = [int(picture) for picture in best if maxima[picture] > 0]
        top = strongest.top(latent)
        assert [picture for picture, _, _ in top] == best
        for picture, maximum, levels in top:
            assert maximum == maxima[picture], "the maximum of the map and of all pictures' places"
            expected = codes[picture, :, latent].view(GRID) / maximum * 255
            assert torch.equal(levels, expected.round().to(torch.uint8))
            assert levels.max() == 255


def test_figures_are_those_of_all_codes():
    codes = draw(9, 3)
    strongest = seen(codes)
    flat = codes.flatten(0, 1)
    torch.testing.assert_close(strongest.density, (flat > 0).double().mean(0))
    expected = flat.double().sum(0) / (flat > 0).sum(0)
    torch.testing.assert_close(strongest.mean, expected, equal_nan=True)
    assert strongest.counts.shape == (LATENTS, BINS)
    edges = strongest.edges
    for latent in (0, 7):
        values = flat[:, latent][flat[:, latent] > 0].double()
        assert torch.equal(strongest.counts[latent], torch.histogram(values, edges).hist.long())


def test_the_order_of_pictures_does_not_matter():
    codes = draw(9, 4)
    one, other = seen(codes), seen(codes, [3, 8, 0, 1, 7, 6, 2, 5, 4])
    assert torch.equal(one.counts, other.counts)
    for latent in range(LATENTS):
        for (a, b, c), (d, e, f) in zip(one.top(latent), other.top(latent), strict=True):
            assert (a, b) == (d, e)
            assert torch.equal(c, f)


@pytest.mark.parametrize("value", [1e-9, 1e9])
def test_what_is_off_the_scale_is_in_the_last_bins(value):
    strongest = Strongest(1, (1, 1), 1)
    strongest.add(5, sparse(torch.tensor([[value]])))
    assert strongest.counts[0, 0 if value < 1 else -1] == 1
    assert strongest.top(0)[0][:2] == (5, pytest.approx(value))
