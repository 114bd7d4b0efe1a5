"""Views of pictures: other libraries' colours and blur, and the same view in any batch."""

import colorsys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from diffdict.data.toy_faces import ToyFaces
from diffdict.data.view_images import ViewImages
from diffdict.data.views import (
    TwoViews,
    Views,
    blurred_picture,
    brightened,
    contrasted,
    hued,
    jitter_colours,
    saturated,
)
from diffdict.errors import UserError

FACES = partial(ToyFaces, image_size=16, train_pictures=6, val_pictures=3, test_pictures=2)


def picture(side=16):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return pixels, torch.from_numpy(pixels).permute(2, 0, 1) / 255


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (brightened, ImageEnhance.Brightness),
        (contrasted, ImageEnhance.Contrast),
        (saturated, ImageEnhance.Color),
    ],
)
def test_colours_are_pillows_but_for_rounding(ours, theirs, factor):
    pixels, image = picture()
    wanted = np.asarray(theirs(Image.fromarray(pixels)).enhance(factor)).astype(np.float32)
    got = ours(image, factor).permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(got, wanted, atol=1.6)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.2, 0.5])
def test_hues_turn_as_in_colorsys(turn):
    pixels, image = picture(8)
    got = hued(image, turn).permute(1, 2, 0).numpy()
    for row, line in enumerate(pixels / 255):
        for column, rgb in enumerate(line):
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            wanted = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
            np.testing.assert_allclose(got[row, column], wanted, atol=1e-5)


def test_grey_has_no_hue():
    grey = torch.full((3, 4, 4), 0.4)
    torch.testing.assert_close(hued(grey, 0.3), grey)


@pytest.mark.parametrize("sigma", [0.3, 1.5])
def test_blur_is_scipys(sigma):
    _, image = picture(64)
    wanted = gaussian_filter(image.numpy(), (0, sigma, sigma), radius=(0, 3, 3), mode="mirror")
    np.testing.assert_allclose(blurred_picture(image, sigma), wanted, atol=1e-6)
    small = image[:, :16, :16]
    assert torch.equal(blurred_picture(small, sigma), small)  # a kernel of one pixel


def test_no_jitter_changes_nothing():
    _, image = picture()
    assert jitter_colours(image, (0.0, 0.0, 0.0, 0.0), (0.5,) * 4, range(4)) is image
    half = jitter_colours(image, (0.8, 0.8, 0.8, 0.2), (0.5,) * 4, (3, 1, 0, 2))
    torch.testing.assert_close(half, image, atol=1e-5, rtol=1e-5)


def test_a_view_belongs_to_seed_epoch_and_picture():
    faces = FACES(split="train")
    views = TwoViews(faces, Views(), seed=0)
    batch = views.batch([(3, 1), (3, 4)])
    alone = views[3, 4]
    for key in ("image", "other"):
        assert torch.equal(batch[key][1], alone[key])
        assert batch[key].shape == (2, 3, 16, 16)
        assert batch[key].abs().max() <= 1
    assert batch["index"].tolist() == [1, 4]
    others = [views[2, 4], TwoViews(faces, Views(), seed=1)[3, 4], {"image": alone["other"]}]
    assert all(not torch.equal(alone["image"], other["image"]) for other in others)
    assert torch.equal(views[4]["image"], views[4]["image"])
    same = TwoViews(faces, None, seed=0)[0, 2]
    assert torch.equal(same["image"], faces[2]["image"])
    assert torch.equal(same["image"], same["other"])


def test_batches_of_views_come_through_the_loaders():
    data = ViewImages(FACES, Views(), batch_size=2, seed=3)
    assert data.facts["batch_size"] == 2
    batches = list(data.train_dataloader())
    assert [batch["other"].shape[0] for batch in batches] == [2, 2, 2]
    (first, second) = data.val_dataloader(), data.val_dataloader()
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one["other"], two["other"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"flip": 2}, "flip is a probability"),
        ({"blur": -1}, "blur is a probability"),
        ({"jitter": [1, 1, 1]}, "jitter is how far"),
        ({"jitter": [1, 1, 1, 0.6]}, "hue 0.5 at most"),
    ],
)
def test_mistakes_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        Views(**settings)
