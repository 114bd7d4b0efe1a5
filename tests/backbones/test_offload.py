"""Weights that visit a device: they compute what they ever did, there, and are at home after it."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffdict.backbones.hub import Hub
from diffdict.backbones.offload import offload_weights, visiting
from diffdict.errors import UserError
from tests.tiny_pipelines import FAMILIES, SIDE, latent_shape, told

WAYS = ("whole", "layers")


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def make(family, folders, **settings) -> Hub:
    settings = {**told(family, folders[family]), **settings}
    return Hub(str(folders[family]), SIDE, **settings).requires_grad_(False).eval()


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


class OneDevice(TorchDispatchMode):
    """Refuses operations across devices; `weights`, the most of them that were away at once."""

    def __init__(self, net: Hub) -> None:
        super().__init__()
        self.net, self.weights = net, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Counts and computes."""
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim]
        carried = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        assert carried or len({x.device for x in given}) < 2, func
        weights = [*self.net.network.parameters(), *self.net.encoder.vae.parameters()]
        away = sum(each.numel() for each in weights if each.device.type == "meta")
        self.weights = max(self.weights, away)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_offloaded_computes_the_same_bits(family, folders, way):
    plain, net = make(family, folders), make(family, folders, offload=way)
    noise = torch.randn(1, *latent_shape(family), generator=torch.Generator().manual_seed(2))
    t = torch.full((2,), 300)
    block = plain.chosen(None)[1]
    looked = [each.features(pictures(), 300, [block], noise)[block] for each in (plain, net)]
    assert torch.equal(*looked)
    x = torch.randn(2, *latent_shape(family), generator=torch.Generator().manual_seed(3))
    assert torch.equal(plain(x, t), net(x, t))
    edits = {block: lambda x, _: 2 * x}
    assert torch.equal(plain(x, t, edits=edits), net(x, t, edits=edits))
    assert torch.equal(plain.pictures(x), net.pictures(x))
    assert plain.sha256 == net.sha256


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_on_the_device_of_a_pass_and_at_home_after_it(family, folders, way):
    net = make(family, folders, offload=way)
    state = {name: weight.clone() for name, weight in net.network.state_dict().items()}
    block = net.chosen(None)[0]  # the pass is cut short
    x = torch.empty(1, *latent_shape(family), device="meta")
    with OneDevice(net) as passes:
        maps = net.features(x, 300, [block], torch.empty_like(x))
        assert net(x, torch.zeros(1, dtype=torch.int64, device="meta")).shape[2:] == x.shape[2:]
    assert maps[block].device.type == "meta"
    assert all(torch.equal(state[name], x) for name, x in net.network.state_dict().items())
    whole = sum(each.numel() for each in net.network.parameters())
    layers = [sum(x.numel() for x in m.parameters(False)) for m in net.network.modules()]
    if way == "whole":
        assert passes.weights == whole
    else:  # a layer that holds others and weights of its own has those there too
        assert max(layers) <= passes.weights < max(layers) + whole / 4 < whole


def test_network_and_autoencoder_are_never_there_together(folders, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    net = make("sd", folders, offload="whole")
    encoder = sum(each.numel() for each in net.encoder.vae.parameters())
    network = sum(each.numel() for each in net.network.parameters())
    x = torch.empty(1, *latent_shape("sd"), device="meta")
    with OneDevice(net) as passes:
        net.encoder(torch.empty(1, 3, SIDE, SIDE, device="meta"))
        assert passes.weights == encoder
        net(net.encoder(net.pictures(x)), torch.zeros(1, dtype=torch.int64, device="meta"))
    assert passes.weights == max(encoder, network)
    assert {each.device.type for each in net.encoder.vae.parameters()} == {"cpu"}


@pytest.mark.parametrize("way", WAYS)
def test_a_move_of_the_module_moves_no_weight_and_a_cast_does(folders, way):
    net = make("sd", folders, offload=way)
    assert {each.device.type for each in net.to("meta").parameters()} == {"cpu"}
    assert {each.dtype for each in net.to(torch.bfloat16).parameters()} == {torch.bfloat16}
    x = torch.randn(1, *latent_shape("sd"))
    assert net(x, torch.zeros(1, dtype=torch.int64)).isfinite().all()


def test_weights_come_home_from_a_pass_that_fails():
    layer = nn.Linear(3, 4)
    before = layer.weight.data_ptr()
    offload_weights(layer, "whole")
    with pytest.raises(RuntimeError):
        layer(torch.empty(2, 5, device="meta"))
    assert layer.weight.data_ptr() == before
    assert layer(torch.empty(2, 3, device="meta")).device.type == "meta"
    with visiting(layer, torch.device("meta")):
        assert layer.weight.device.type == "meta"
    assert layer.weight.data_ptr() == before


def test_an_unknown_way_is_named(folders):
    with pytest.raises(UserError, match=r"backbone\.offload is one of none, whole, layers, got"):
        make("sd", folders, offload="model")
