"""Pooled maps, MAE's tokens and a dictionary's codes as one vector a picture."""

from pathlib import Path

import pytest
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.mae import MAE
from diffdict.backbones.pixels import Pixels
from diffdict.dictionary import Dictionary
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.representations.codes import PooledCodes
from diffdict.representations.mae import MAEVector
from diffdict.representations.pooled import Pooled
from diffdict.sae import saelens
from tests.tiny_dictionary import pixel_dictionary

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    net = GuidedUNet(16, 32, 1, channel_mult="1,1", attention_resolutions="8", name="tiny")
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net


def test_blocks_side_by_side(unet):
    net = Pooled(unet, [50, 150], [0, 2], Noise(seed=3, draws=2))
    got = net.vectors(IMAGES)
    assert got.shape == (3, net.dim) == (3, 2 * (32 + 32))
    noise = Noise(seed=3, draws=2).for_pictures([0], (3, 16, 16))[:, 0]
    wanted = [
        sum(unet.features(IMAGES, t, [block], draw)[block] for draw in noise).mean((2, 3)) / 2
        for t in (50, 150)
        for block in (0, 2)
    ]
    torch.testing.assert_close(got, torch.cat(wanted, 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.vectors(IMAGES[1:2]), got[1:2], atol=1e-5, rtol=1e-5)


def test_cells_and_largest_values():
    cells = Pooled(Pixels(16), None, "pixels", pool="max", grid=2).vectors(IMAGES)
    corner = IMAGES[:, 0, :8, 8:].amax((1, 2))  # red, first row of cells, second column
    torch.testing.assert_close(cells[:, 1], corner)
    whole = Pooled(Pixels(16), None, "pixels", grid=16)
    assert whole.dim == 5 * 256
    torch.testing.assert_close(whole.vectors(IMAGES)[:, :768], IMAGES.flatten(1))


def test_its_hash_is_over_all_that_changes_a_number(unet):
    made = [
        Pooled(unet, 50, 0),
        Pooled(unet, 51, 0),
        Pooled(unet, 50, 1),
        Pooled(unet, 50, 0, pool="max"),
        Pooled(unet, 50, 0, grid=2),
        Pooled(unet, 50, 0, Noise(seed=1)),
        Pooled(unet, 50, 0, image_size=32),
    ]
    assert len({net.sha256 for net in made}) == len(made)
    assert Pooled(unet, 50, 0).sha256 == made[0].sha256


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"pool": "sum"}, "pool is mean or max"),
        ({"grid": 0}, "at least 1"),
        ({"grid": 17}, "grid=16 at most"),
        ({"noise": {"shared": False}}, "noise.shared=true"),
    ],
)
def test_what_cannot_be_pooled(asked, said):
    with pytest.raises(UserError, match=said):
        Pooled(Pixels(16), None, "pixels", **asked)


def test_maes_class_token_and_patches():
    mae = MAE(16, 8, 32, 2, 2, normalise=True)
    tokens = mae(IMAGES)
    with torch.no_grad():
        assert torch.equal(MAEVector(mae).vectors(IMAGES), tokens[:, 0])
        assert torch.equal(MAEVector(mae, "mean").vectors(IMAGES), tokens[:, 1:].mean(1))
    assert MAEVector(mae).sha256 != MAEVector(mae, "mean").sha256
    assert (MAEVector(mae).dim, MAEVector(mae).image_size) == (32, 16)
    with pytest.raises(UserError, match=r"cls or mean, got 'head'"):
        MAEVector(mae, "head")


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    """An export of a dictionary of pixels."""
    return lambda **asked: pixel_dictionary(tmp_path_factory.mktemp("dictionary") / "out", **asked)


def test_codes_are_the_mean_of_a_dictionarys(dictionary):
    path = dictionary()
    net, opened = PooledCodes(path), Dictionary.load(path)
    wanted = torch.stack([opened.encode(image).maps.mean((1, 2)) for image in IMAGES])
    got = net.vectors(IMAGES)
    torch.testing.assert_close(got, wanted)
    assert (net.dim, net.image_size, net.name) == (12, 16, "codes")
    some = PooledCodes(path, [7, 3])
    assert torch.equal(some.vectors(IMAGES), got[:, [7, 3]])
    assert some.name == "codes_7_3"
    assert some.sha256 != net.sha256


def test_latents_have_their_numbers_of_training(dictionary):
    """As the tables of a run's test have them, whatever the order of its export."""
    path = dictionary()
    own, ordered = saelens.load(Path(path)), f"{path}_ordered"
    own.frequency.copy_(torch.randperm(12, generator=torch.Generator().manual_seed(0)))
    saelens.export(own, ordered, saelens.read_json(Path(path) / saelens.CARD))
    net, again = PooledCodes(path), PooledCodes(ordered)
    assert not torch.equal(saelens.load(Path(ordered)).W_enc, own.W_enc)
    torch.testing.assert_close(again.vectors(IMAGES), net.vectors(IMAGES))


def test_which_codes_there_are_not(dictionary):
    with pytest.raises(UserError, match=r"representation.dictionary="):
        PooledCodes(None)
    for latents in ([12], [-1], [], [3, 3], "all"):
        with pytest.raises(UserError, match=r"from 0 to 11"):
            PooledCodes(dictionary(), latents)
    with pytest.raises(UserError, match=r"weights aaaa"):
        PooledCodes(dictionary(backbone_sha256="a" * 64))
    with pytest.raises(UserError, match=r"noise.shared=true"):
        PooledCodes(dictionary(noise={"shared": False}))
