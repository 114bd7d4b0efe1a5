"""DDAE's noise-conditional WideResNet against the original's answers; its noise, and bad input."""

import copy

import numpy as np
import pytest
import torch

from diffdict import checkpoints
from diffdict.backbones.wide_resnet import WideResNet, standardised
from diffdict.checkpoints.architecture import infer_architecture
from diffdict.errors import UserError

TINY = {"blocks_per_group": 1, "channel_multiplier": 1}


@pytest.fixture(scope="module")
def net(golden) -> WideResNet:
    case = golden("ddae_wrn")
    flags = ("blocks_per_group", "channel_multiplier")
    return case.fill(WideResNet(**{flag: case.facts["config"][flag] for flag in flags}))


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(7401).random((2, 3, 32, 32), dtype=np.float32)
    return torch.from_numpy(pixels) * 2 - 1


@pytest.fixture(scope="module")
def noise():
    drawn = np.random.default_rng(7402).standard_normal((2, 3, 32, 32), dtype=np.float32)
    return torch.from_numpy(drawn)


@torch.no_grad()
def test_every_golden_output(golden, net, images, noise):
    case = golden("ddae_wrn")
    assert sum(p.numel() for p in net.parameters()) == case.facts["n_params"]
    names = {output["name"] for output in case.facts["outputs"]}
    got = {}
    for timestep in (1, 51, 501, 951):
        t = torch.full((2,), timestep)
        x_t, time = net.process.noised(images, t - 1, noise), net.told(t)
        own = {"time_input": time, "logits": net(x_t, time), "x_noised": x_t}
        own |= net.features(images, timestep, noise=noise)
        got |= {f"t{timestep}.{name}": x for name, x in own.items()}
    assert names <= got.keys()
    for name in names:
        case.check(name, got[name])


def test_the_published_network_has_its_size():
    net = WideResNet()
    assert sum(p.numel() for p in net.parameters()) == 38_913_242
    assert net.shapes == {"group1": (160, 32, 32), "group2": (320, 16, 16), "group3": (640, 8, 8)}
    assert not net.time_emb.W.requires_grad


def test_under_edm_it_is_told_the_logarithm_of_the_level(images, noise):
    net = WideResNet(**TINY, framework="edm").eval()
    assert (net.num_timesteps, net.first_timestep) == (18, 1)
    wanted = torch.tensor([0.002, 80.0]).log()
    torch.testing.assert_close(net.told(torch.tensor([1, 18])), wanted)
    seen = []
    hook = net.init_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net.features(images, 18, noise=noise)
    hook.remove()
    torch.testing.assert_close(seen[0], standardised(images + 80 * noise))


def test_pictures_are_standardised_and_flat_ones_stay_flat():
    x = torch.cat([5 + 3 * torch.randn(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)])
    got = standardised(x)
    assert got[0].mean().abs() < 1e-5
    assert (got[0].std() - 1).abs() < 1e-5
    assert not got[1].any()
    faint = torch.zeros(1, 3, 8, 8)
    faint[0, 0, 0, 0] = 1e-6  # the deviation's floor is 1 / √192
    torch.testing.assert_close(standardised(faint).max().item(), 1e-6 * 191 / 192 * 192**0.5)


def test_a_pass_ends_with_the_last_block_asked_for(net, images):
    called = []
    hooks = [
        getattr(net, group).register_forward_hook(lambda *_, group=group: called.append(group))
        for group in net.shapes
    ]
    with torch.no_grad():
        assert list(net.features(images, 11, ["group2"])) == ["group2"]
    for hook in hooks:
        hook.remove()
    assert called == ["group1", "group2"]


def test_every_weight_learns(images):
    net = WideResNet(**TINY)
    net(images, net.told(torch.tensor([1, 900]))).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.requires_grad)


def test_half_networks_take_and_give_halves(net, images, noise):
    half = copy.deepcopy(net).to(torch.bfloat16)
    with torch.no_grad():
        got, wanted = (each.features(images, 11, ["group3"], noise) for each in (half, net))
    assert got["group3"].dtype == torch.bfloat16
    assert (got["group3"].float() - wanted["group3"]).norm() < 0.05 * wanted["group3"].norm()


def test_its_file_fills_it_and_says_its_flags(tmp_path):
    net = WideResNet(2, 3, 5)
    torch.save(net.state_dict(), tmp_path / "wrn.pt")
    loaded = WideResNet(2, 3, 5, checkpoint=str(tmp_path / "wrn.pt"))
    assert all(torch.equal(x, net.state_dict()[key]) for key, x in loaded.state_dict().items())
    kind, flags = infer_architecture({k: tuple(x.shape) for k, x in net.state_dict().items()})
    assert kind == "DDAE WideResNet"
    assert flags == {"blocks_per_group": 2, "channel_multiplier": 3, "num_classes": 5}
    assert "DDAE WideResNet" in checkpoints.describe(tmp_path / "wrn.pt")
    with pytest.raises(UserError, match=r"backbone\.channel_multiplier=3 \(the network has 2\)"):
        WideResNet(2, 2, 5, checkpoint=str(tmp_path / "wrn.pt"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"blocks_per_group": 0}, "wide_resnet's blocks_per_group is 1 or more, got 0"),
        ({"channel_multiplier": 0}, "channel_multiplier is 1 or more, got 0"),
        ({"channel_multiplier": 9}, "channel_multiplier must be even above 7, .* got 9: 10 is"),
        ({"num_classes": 0}, "num_classes is 1 or more, got 0"),
        ({"framework": "vp"}, "framework is ddpm or edm, got 'vp'"),
        ({"image_size": 30}, "image_size must be a multiple of 4, got 30"),
    ],
)
def test_impossible_flags_are_named(changes, says):
    with pytest.raises(UserError, match=says):
        WideResNet(**TINY | changes)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"blocks": ["group4"]}, "no block 'group4'. Its blocks: group1, group2, group3"),
        ({"timestep": 0}, "needs a timestep between 1 and 1000, got 0"),
        ({"timestep": None}, "needs a timestep between 1 and 1000, got None"),
        ({"images": torch.zeros(1, 3, 30, 32)}, "sides are divisible by 4, got 30×32"),
    ],
)
def test_wrong_questions_are_named(call, says):
    with pytest.raises(UserError, match=says):
        WideResNet(**TINY).features(**{"images": torch.zeros(1, 3, 32, 32), "timestep": 11} | call)
