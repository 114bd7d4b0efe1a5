"""The base of all backbones, on a network with string blocks and no timestep."""

import copy
import pickle

import pytest
import torch
from torch import nn

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError


class Stem(Backbone):
    """Two layers by name, as a ResNet would have."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.image_size = "stem", 8
        self.shapes = {"layer1.0": (4, 8, 8), "layer2.0": (6, 4, 4)}
        self.layer1 = nn.Conv2d(3, 4, 1)
        self.layer2 = nn.Conv2d(4, 6, 2, stride=2)

    def features(self, images, timestep=None, blocks=None, noise=None):
        self.check_timestep(timestep)
        wanted = self.chosen(blocks)
        maps = {"layer1.0": self.layer1(images)}
        if "layer2.0" in wanted:
            maps["layer2.0"] = self.layer2(maps["layer1.0"])
        return {block: maps[block] for block in wanted}


def test_named_blocks_in_the_networks_order():
    net = Stem()
    got = net.features(torch.rand(2, 3, 8, 8), blocks=["layer2.0", "layer1.0"])
    assert {block: tuple(seen.shape[1:]) for block, seen in got.items()} == net.shapes
    assert list(got) == ["layer1.0", "layer2.0"]
    assert net.chosen(None) == ["layer1.0", "layer2.0"]


def test_unknown_block_lists_the_known():
    with pytest.raises(UserError, match=r"stem has no block 3. Its blocks: layer1.0, layer2.0"):
        Stem().features(torch.rand(1, 3, 8, 8), blocks=[3])


def test_abstract():
    with pytest.raises(TypeError, match="features"):
        Backbone()


def test_hash_follows_the_values_and_nothing_else():
    net = Stem()
    same = copy.deepcopy(net)
    assert net.sha256 == same.sha256 == same.to(memory_format=torch.channels_last).sha256
    assert pickle.loads(pickle.dumps(net)).sha256 == net.sha256
    assert copy.deepcopy(net).half().sha256 != net.sha256
    with torch.no_grad():
        same.layer1.bias[0] += 1
    assert same.sha256 != net.sha256
