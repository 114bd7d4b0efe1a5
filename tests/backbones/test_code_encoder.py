"""Encoders of one code a picture: their golden cases, sizes, parts."""

import re

import numpy as np
import pytest
import torch

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.resnet10 import ResNet10
from diffdict.diffusion.segments import CodeSegments
from diffdict.errors import UserError

STAGES = {"number": 4, "stages": [50, 100], "dims": [3, 5], "steps": 100}


def image(seed, shape):
    pixels = np.random.default_rng(seed).random(shape, dtype=np.float32) * 2 - 1
    return torch.from_numpy(pixels)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "side", "code", "seed", "parameters"),
    [
        ("diti_encoder", 64, 512, 9101, 1_487_104),
        ("diti_encoder128", 128, 96, 9111, 2_209_888),
    ],
)
def test_every_output_of_a_published_encoder(golden, name, side, code, seed, parameters):
    case = golden(name)
    net = case.fill(CodeEncoder(side, code))
    assert sum(p.numel() for p in net.parameters()) == parameters
    x = image(seed, (2 if side == 64 else 1, 3, side, side))
    case.check("z", net(x))
    case.check("z", net.features(x)["code"].flatten(1))
    for fact in case.facts["outputs"][1:]:
        last = int(fact["name"].removeprefix("encoder."))
        h = net.encoder[: last + 1](x)
        case.check(fact["name"], h.detach())


@torch.no_grad()
def test_the_published_resnet10(golden):
    case = golden("diti_resnet10")
    net = case.fill(ResNet10(64))
    assert sum(p.numel() for p in net.parameters()) == 4_898_112
    case.check("z", net(image(9121, (2, 3, 64, 64))))


def test_a_fresh_resnet10_starts_as_projections_of_its_input():
    net = ResNet10(16)
    assert all(net.encoder.get_submodule(f"layer{i}.0.bn2").weight.abs().sum() == 0 for i in (1, 4))


@torch.no_grad()
@pytest.mark.parametrize(
    ("side", "widths", "attends"),
    [
        (8, [64], None),
        (16, [64, 128], None),
        (32, [64, 128, 128], 1),
        (64, [64, 128, 128, 128], 4),
        (128, [64, 128, 256, 256, 256], 7),
        (256, [64, 128, 256, 512, 512, 512], 10),
    ],
)
def test_any_side_that_halves_to_4(side, widths, attends):
    net = CodeEncoder(side, 7)
    convolutions = [layer for layer in net.encoder if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == widths
    assert net(torch.zeros(1, 3, side, side)).shape == (1, 7)
    places = [i for i, layer in enumerate(net.encoder) if hasattr(layer, "qkv")]
    assert places == ([] if attends is None else [attends])


def test_the_published_size_at_128():
    assert sum(p.numel() for p in CodeEncoder(128).parameters()) == 3_914_240


@torch.no_grad()
def test_stages_are_blocks_that_make_the_code():
    net = CodeEncoder(8, 8, segments=STAGES)
    assert net.shapes == {"code": (8, 1, 1), "stage0": (3, 1, 1), "stage1": (5, 1, 1)}
    maps = net.features(image(0, (2, 3, 8, 8)))
    assert torch.equal(torch.cat([maps["stage0"], maps["stage1"]], 1), maps["code"])


@torch.no_grad()
def test_segments_are_blocks_where_there_are_no_stages():
    net = CodeEncoder(8, 8, segments=CodeSegments(8, 3, steps=10))
    assert list(net.shapes) == ["code", "segment0", "segment1", "segment2"]
    maps = net.features(image(0, (2, 3, 8, 8)), blocks=["segment1"])
    assert list(maps) == ["segment1"]
    assert torch.equal(maps["segment1"].flatten(1), net(image(0, (2, 3, 8, 8)))[:, 2:5])


def test_a_stage_that_opens_nothing_is_no_block():
    net = CodeEncoder(8, 8, segments=STAGES | {"dims": [0, 8]})
    assert list(net.shapes) == ["code", "stage1"]


def test_it_has_no_timestep():
    with pytest.raises(UserError, match="code_encoder has no timesteps"):
        CodeEncoder(8, 8).features(image(0, (2, 3, 8, 8)), timestep=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 48}, "down to 4 × 4, got image_size=48: 64 or 128"),
        ({"image_size": 4}, "down to 4 × 4, got image_size=4"),
        ({"image_size": 0}, "down to 4 × 4, got image_size=0"),
        ({"code": 0}, "code is the number of its entries, at least 1, got 0"),
        ({"widths": [64]}, "widths are 2 multiples of 32 for image_size=16"),
        ({"widths": [64, 100]}, "one a halving, got [64, 100]: null takes"),
        ({"segments": {"code": 9, "number": 3}}, "8 wide, got segments of a code of 9"),
    ],
)
def test_encoders_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        CodeEncoder(**({"image_size": 16, "code": 8} | settings))


@pytest.mark.parametrize("encoder", [CodeEncoder, ResNet10])
def test_pictures_of_another_size(encoder):
    with pytest.raises(UserError, match=r"takes pictures of 3×16×16, got 3×8×16: dataset.image_si"):
        encoder(16)(torch.zeros(1, 3, 8, 16))
