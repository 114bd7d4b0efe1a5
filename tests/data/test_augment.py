"""EDM's augmentation: its laws, its labels by formula, and draws that belong to a picture."""

import math

import pytest
import torch

from diffdict.data import augment
from diffdict.data.augment import Augment, AugmentDraws, doubled, halved, transformed
from diffdict.errors import UserError

SIDE = 16


def pictures(number=2):
    return torch.rand(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def drawn(number=2, **what):
    """A draw in which only this happens, to all."""
    none = torch.zeros(number, dtype=torch.float64)
    return AugmentDraws(
        **dict.fromkeys(AugmentDraws._fields, none) | {k: none + v for k, v in what.items()}
    )


def after(images, **what):
    return transformed(images, drawn(len(images), **what).matrices)


def test_at_probability_0_nothing_happens():
    images = pictures(8)
    same, labels = Augment(0)(images, range(8))
    assert torch.equal(same, images)
    assert torch.equal(labels, torch.zeros(8, 9))


def test_a_picture_that_is_left_alone_keeps_every_bit():
    images = pictures()
    matrices = drawn(2, angle=torch.tensor([0, 1.0])).matrices
    result = transformed(images, matrices)
    assert torch.equal(result[0], images[0])
    assert not torch.allclose(result[1], images[1], atol=0.1)


def test_the_filters_are_a_biorthogonal_pair():
    images = pictures()
    margin = len(augment.DOWN) - 1
    fine = torch.nn.functional.pad(doubled(images), [margin] * 4, mode="reflect")
    torch.testing.assert_close(halved(fine), images, atol=2e-6, rtol=0)
    assert sum(augment.UP) * 2 - augment.UP[0] == pytest.approx(2)
    assert sum(augment.DOWN) * 2 - augment.DOWN[0] == pytest.approx(1)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_lose_nothing(turns):
    images = pictures()
    expected = torch.rot90(images, turns, (2, 3))  # counter-clockwise, as one sees it
    torch.testing.assert_close(
        after(images, angle=turns * math.pi / 2), expected, atol=5e-6, rtol=0
    )


def test_flips_and_whole_pixel_shifts_lose_nothing():
    images = pictures()
    torch.testing.assert_close(after(images, x_flip=1.0), images.flip(3), atol=5e-6, rtol=0)
    torch.testing.assert_close(after(images, y_flip=1.0), images.flip(2), atol=5e-6, rtol=0)
    moved = after(images, x_shift=1.0, y_shift=-0.5)  # two pixels to the right, one up
    expected = images[:, :, 1:, :-2]
    torch.testing.assert_close(moved[:, :, :-1, 2:], expected, atol=5e-6, rtol=0)
    torch.testing.assert_close(moved[:, :, :-1, 0], images[:, :, 1:, 2], atol=5e-6, rtol=0)


def test_a_plane_stays_a_plane():
    """A picture that rises evenly to the right, in its middle, under a scale of 2 and a turn."""
    slope = torch.linspace(-1, 1, SIDE).expand(1, 3, SIDE, SIDE)
    middle = slice(6, 10)
    grown = after(slope, scale=5.0)[:, :, middle, middle]
    torch.testing.assert_close(grown, slope[:, :, middle, middle] / 2, atol=1e-4, rtol=0)
    turned = after(slope, angle=0.3)
    rise = 2 / (SIDE - 1)
    along = turned[0, 0, 8, 9] - turned[0, 0, 8, 8]
    up = turned[0, 0, 7, 8] - turned[0, 0, 8, 8]
    assert along.item() == pytest.approx(rise * math.cos(0.3), abs=1e-4)
    assert up.item() == pytest.approx(rise * math.sin(0.3), abs=1e-4)
    longer = after(slope, stretch=5.0)[:, :, middle, middle]
    torch.testing.assert_close(longer, slope[:, :, middle, middle] / 2, atol=1e-4, rtol=0)
    narrower = after(slope, stretch=5.0, frame=math.pi / 2)[:, :, 8, 8] / slope[:, :, 8, 8]
    torch.testing.assert_close(narrower, torch.full((1, 3), 2.0), atol=1e-3, rtol=0)


def test_a_constant_stays_one():
    images = torch.full((1, 3, SIDE, SIDE), 0.7)
    torch.testing.assert_close(after(images, angle=0.7, scale=-2.0, x_shift=3.0), images)


def test_labels_are_the_formulas():
    what = {"x_flip": 1.0, "y_flip": 1.0, "scale": 0.5, "angle": 0.3, "stretch": -0.7}
    what |= {"frame": 2.0, "x_shift": 0.1, "y_shift": -1.5}
    expected = [1, 1, 0.5, math.cos(0.3) - 1, math.sin(0.3)]
    expected += [-0.7 * math.cos(2), -0.7 * math.sin(2), 0.1, -1.5]
    torch.testing.assert_close(drawn(1, **what).labels[0], torch.tensor(expected).double())


def test_each_is_as_frequent_and_as_wide_as_it_should_be():
    count = 20000
    seen = Augment(0.12).draw(range(count))
    error = 5 * math.sqrt(0.12 * 0.88 / count)
    for switched in (seen.scale, seen.angle, seen.stretch, seen.x_shift, seen.y_shift):
        assert abs((switched != 0).double().mean() - 0.12) < error
    assert abs(seen.y_flip.mean() - 0.06) < error
    assert abs(seen.x_flip.mean() - 0.5) < 5 * 0.5 / math.sqrt(count)
    stretched = seen.frame[seen.stretch != 0]
    assert abs((stretched == 0).double().mean() - 0.5) < 5 * 0.5 / math.sqrt(0.12 * count)
    assert (seen.frame[seen.stretch == 0] == 0).all()
    for normal in (seen.scale, seen.stretch, seen.x_shift, seen.y_shift):
        assert normal[normal != 0].std().item() == pytest.approx(1, abs=0.08)
    angles = seen.angle[seen.angle != 0]
    assert (angles.abs() <= math.pi).all()
    assert angles.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.08)
    assert torch.equal(seen.x_shift != 0, seen.y_shift != 0)


def test_a_picture_s_augmentation_hangs_on_its_seed_alone():
    images, change = pictures(6), Augment(0.9)
    whole, labels = change(images, [5, 6, 7, 8, 9, 10])
    some, theirs = change(images[2:4], [7, 8])
    torch.testing.assert_close(some, whole[2:4], atol=1e-6, rtol=0)
    assert torch.equal(theirs, labels[2:4])
    assert not torch.equal(change(images[2:4], [8, 7])[1], theirs)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"probability lies in \[0, 1\], got 1.2"):
        Augment(1.2)
