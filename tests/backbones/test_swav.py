"""SwAV's ResNets against the original's answers, their released files, and the laws of features."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffdict.backbones.imagenet.statistics import MEAN, STD, normalised
from diffdict.backbones.swav import SwAV
from diffdict.errors import UserError

BLOCKS = [
    f"layer{layer}.{i}"
    for layer, count in ((1, 3), (2, 4), (3, 6), (4, 3))
    for i in range(0, count, 2)
]
IMAGES = torch.from_numpy(np.random.default_rng(6001).standard_normal((2, 3, 64, 64), np.float32))


@pytest.fixture(scope="module")
def case(golden):
    return golden("swav_resnet50")


@pytest.fixture(scope="module")
def net(case) -> SwAV:
    """The network of the golden case; it takes normalised pictures of 64 px."""
    return case.fill(SwAV(image_size=64))


def seen(net: SwAV, taps: str, images: Tensor = IMAGES, blocks=None) -> dict[str, Tensor]:
    """The features on that side of the blocks."""
    other = copy.copy(net)
    other.taps = taps
    with torch.no_grad():
        return other.features(images, blocks=blocks)


def test_every_golden_output(case, net):
    assert list(net.state_dict()) == [key for key, _, _ in case.facts["state_dict"]]
    maps = {taps: seen(net, taps) for taps in ("input", "output")}
    got = {f"{taps}.{block}": x for taps, own in maps.items() for block, x in own.items()}
    large = [F.interpolate(x[:1], (64, 64), mode="bilinear") for x in maps["input"].values()]
    got["collected.input"] = torch.cat(large, dim=1)[0]
    with torch.no_grad():
        got["pooled"] = net(IMAGES).mean(dim=(2, 3))
    for output in case.facts["outputs"]:
        case.check(output["name"], got[output["name"]])
    assert list(maps["input"]) == case.facts["feature_order"] == BLOCKS


def test_pictures_are_shown_in_imagenets_colours(net):
    mean, std = (torch.tensor(colours)[:, None, None] for colours in (MEAN, STD))
    pictures = 2 * (IMAGES * std + mean) - 1  # in [-1, 1], but for the tails
    torch.testing.assert_close(normalised(pictures), IMAGES, atol=1e-5, rtol=1e-5)
    assert not SwAV().normalise
    other = copy.copy(net)
    other.normalise = True
    for block, x in seen(other, "input", pictures).items():
        torch.testing.assert_close(x, seen(net, "input")[block], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("width", [1, 2])
def test_the_networks_have_the_released_sizes(width):
    with torch.device("meta"):
        nets = {taps: SwAV(width, taps).eval() for taps in ("input", "output")}
        for size in (256, 33):
            for taps, net in nets.items():
                net.image_size = size
                maps = net.features(torch.empty(1, 3, size, size))
                shapes = {block: tuple(x.shape[1:]) for block, x in maps.items()}
                assert shapes == SwAV(width, taps, image_size=size).shapes
    assert sum(p.numel() for p in net.parameters()) == {1: 23_508_032, 2: 93_907_072}[width]
    assert sum(channels for channels, _, _ in nets["input"].shapes.values()) == 6720 * width


@pytest.mark.parametrize(("taps", "last"), [("input", "layer2.1"), ("output", "layer2.2")])
def test_nothing_is_computed_after_the_last_block(net, taps, last):
    called = []
    hooks = [
        block.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, block in net.blocks()
    ]
    got = seen(net, taps, IMAGES[:1], ["layer2.2", "layer1.2", "layer2.2"])
    for hook in hooks:
        hook.remove()
    assert list(got) == ["layer1.2", "layer2.2"]
    assert called[-1] == last
    assert all(torch.equal(x, seen(net, taps, IMAGES[:1])[block]) for block, x in got.items())


def test_an_inputs_map_is_the_output_before_it_and_is_left_alone(net):
    inputs, outputs = seen(net, "input"), seen(net, "output")
    assert torch.equal(inputs["layer3.0"], seen(net, "input", blocks=["layer3.0"])["layer3.0"])
    with torch.no_grad():
        x = net.layer1[1](outputs["layer1.0"])
    assert torch.equal(inputs["layer1.2"], x)


def test_half_networks_take_and_give_halves(net):
    half = copy.deepcopy(net).to(torch.bfloat16)
    with torch.no_grad():
        got = half.features(IMAGES[:1])
    for block, x in seen(net, "input", IMAGES[:1]).items():
        assert got[block].dtype == torch.bfloat16
        assert (got[block].float() - x).norm() < 0.03 * x.norm()


def same(ours: SwAV, theirs: SwAV) -> bool:
    return all(torch.equal(x, theirs.state_dict()[key]) for key, x in ours.state_dict().items())


def test_a_released_file_fills_the_network(case, net, tmp_path):
    """As SwAV's own script leaves it: heads beside the backbone, every key under `module.`."""
    state = {}
    for key, shape, dtype in case.facts["released_checkpoint_keys_swav_facebook"]:
        own = net.state_dict().get(key.removeprefix("module."))
        state[key] = torch.zeros(shape, dtype=getattr(torch, dtype)) if own is None else own
    assert len(state) > len(net.state_dict())
    path = tmp_path / "swav.pth.tar"
    torch.save({"epoch": 9, "state_dict": state, "optimizer": {"state": {}}}, path)
    loaded = SwAV(checkpoint=str(path))
    assert same(loaded, net)
    assert loaded.sha256 != net.sha256  # the file's, and the parameters'
    with pytest.raises(UserError, match="swav is width 1, swav_w2 width 2"):
        SwAV(0.25, checkpoint=str(path))


@pytest.fixture
def slim() -> SwAV:
    """A network a sixteenth as wide, for what has nothing to do with width."""
    torch.manual_seed(0)
    return SwAV(1 / 16)


def test_heads_are_no_part_of_the_network(slim, tmp_path):
    own, fresh = slim.state_dict(), SwAV(1 / 16)
    heads = {"fc.weight": torch.ones(9, 128), "prototypes.weight": torch.ones(9, 9)}
    torch.save(own | heads, tmp_path / "flat.pth")
    assert same(SwAV(1 / 16, checkpoint=str(tmp_path / "flat.pth")), slim)
    assert not same(fresh, slim)
    fresh.load_state_dict(own | heads)
    assert same(fresh, slim)
    with pytest.raises(RuntimeError, match="Unexpected"):
        fresh.load_state_dict(own | {"layer5.0.conv1.weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: {f"encoder.{key}": x for key, x in s.items()} | {"w": torch.ones(1)},
            "318 miss",
        ),
        (lambda s: {key: x for key, x in s.items() if "layer4.2.bn3" not in key}, "5 missing"),
        (
            lambda s: s | {"layer3.6.conv1.weight": torch.ones(1)},
            "1 unknown .* 7 blocks in layer3, 6",
        ),
        (lambda s: {"prototypes.weight": torch.ones(9, 9)}, "318 missing"),
    ],
    ids=["matches nothing", "lacks a part", "deeper", "heads alone"],
)
def test_a_file_that_does_not_fill_the_network_is_refused(slim, tmp_path, change, said):
    torch.save({"state_dict": change(dict(slim.state_dict()))}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"other\.pth does not fit swav: .*{said}"):
        SwAV(1 / 16, checkpoint=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"blocks": ["layer1.1"]}, "no block 'layer1.1'. Its blocks: layer1.0, layer1.2, layer2.0"),
        ({"blocks": [5]}, "no block 5"),
        ({"timestep": 50}, "swav has no timesteps, got timestep=50"),
    ],
)
def test_wrong_questions_are_named(slim, call, says):
    with pytest.raises(UserError, match=says):
        slim.features(IMAGES, **call)


def test_wrong_flags_are_named():
    with pytest.raises(UserError, match="taps is input or output of the blocks, got 'middle'"):
        SwAV(1 / 16, "middle")
    with pytest.raises(UserError, match=r"multiple of 1/64, got 0\.3"):
        SwAV(0.3)
