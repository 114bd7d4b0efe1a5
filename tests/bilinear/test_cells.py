"""Cells of an upsampled picture: the values of F.interpolate, and corners that bound them."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from diffdict.bilinear.cells import find_cells, upsample

SIDES = st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)


@given(*SIDES, st.integers(1, 3))
def test_values_are_those_of_interpolate(h, w, height, width, pictures):
    maps = torch.randn(pictures, 2, h, w, generator=torch.Generator().manual_seed(0))
    groups = find_cells((h, w), (height, width), pictures)
    ours = upsample(maps.permute(0, 2, 3, 1).reshape(-1, 2), groups)
    theirs = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, theirs.permute(0, 2, 3, 1).reshape(-1, 2), rtol=0, atol=2e-5)


@given(*SIDES, st.integers(1, 3))
def test_every_pixel_lies_in_one_cell(h, w, height, width, pictures):
    groups = find_cells((h, w), (height, width), pictures)
    pixels = torch.cat([cells.pixels.flatten() for cells in groups])
    assert pixels.sort().values.tolist() == list(range(pictures * height * width))
    tokens = torch.cat([cells.corners.flatten() for cells in groups])
    assert 0 <= tokens.min() <= tokens.max() < pictures * h * w


@given(*SIDES, st.floats(-1e3, 1e3, width=32), st.sampled_from([1e-30, 1e-6, 1.0, 1e6]))
def test_no_value_leaves_the_range_of_its_corners(h, w, height, width, middle, spread):
    generator = torch.Generator().manual_seed(h * w)
    tokens = middle + spread * torch.randn(h * w, generator=generator)
    for cells in find_cells((h, w), (height, width)):
        corners = tokens[cells.corners]
        values = cells.values(corners, torch.arange(corners.shape[1]))
        assert (values <= corners.amax(0)).all()
        assert (values >= corners.amin(0)).all()


def test_equal_ratios_share_their_weights():
    inner = max(find_cells((32, 32), (256, 256)), key=lambda cells: cells.corners.shape[1])
    assert inner.area == 64
    assert inner.down.shape == inner.across.shape == (8, 1)
