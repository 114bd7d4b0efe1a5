"""A network of the user's own: one method is enough, and what is missing is named."""

import pytest
import torch
from torch import nn

from diffdict.backbones.wrapper import CustomBackbone, wrapper_node
from diffdict.errors import UserError


class Net(nn.Module):
    """Two maps, the second a half of the first's size."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, width, 1), nn.AvgPool2d(2)

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = self.stem(images)
        return {"half": self.pool(x), "stem": x}


class Noised(Net):
    """The same, told timesteps and noise."""

    num_timesteps = 10

    def features(self, images, timestep=None, blocks=None, noise=None):
        return super().features(images + timestep + (0 if noise is None else noise))


def own(network: nn.Module, **more) -> CustomBackbone:
    return CustomBackbone(network, 8, name="net", **more)


def test_sizes_are_seen_and_blocks_come_in_the_networks_order():
    net = own(Net())
    assert net.shapes == {"half": (4, 4, 4), "stem": (4, 8, 8)}
    images = torch.rand(2, 3, 8, 8)
    assert list(net.features(images, blocks=["stem", "half"])) == ["half", "stem"]
    assert torch.equal(net.features(images, blocks=["stem"])["stem"], net.network.stem(images))
    with pytest.raises(UserError, match="net has no timesteps, got timestep=3"):
        net.features(images, 3)
    with pytest.raises(UserError, match=r"net has no block 'late'\. Its blocks: half, stem"):
        net.features(images, blocks=["late"])


def test_a_network_that_has_timesteps_is_told_them_and_the_noise():
    net, images = own(Noised()), torch.rand(1, 3, 8, 8)
    noise = torch.rand(1, 3, 8, 8)
    got = net.features(images, 3, ["stem"], noise)["stem"]
    assert torch.equal(got, net.network.stem(images + 3 + noise))
    with pytest.raises(UserError, match="net needs a timestep between 0 and 9, got 10"):
        net.features(images, 10)


def test_its_weights_are_filled_whole(tmp_path):
    there = Net()
    torch.save({"state_dict": there.state_dict()}, tmp_path / "net.pt")
    net = own(Net(), checkpoint=str(tmp_path / "net.pt"))
    assert torch.equal(net.network.stem.weight, there.stem.weight)
    assert net.sha256 != own(there).sha256
    torch.save({"late.weight": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(UserError, match="2 missing from the file"):
        own(Net(), checkpoint=str(tmp_path / "net.pt"))


def answering(answer) -> nn.Module:
    net = Net()
    net.features = lambda images, timestep=None, blocks=None, noise=None: answer(images)
    return net


def taking(method) -> nn.Module:
    net = Net()
    net.features = method
    return net


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Net, "net must be a torch.nn.Module, got type"),
        ({"_target_": "mypackage.Net"}, "mypackage.Net is a network of one's own, which is never"),
        (nn.Identity(), r"net has no method features\(self, images, timestep=None, blocks=None"),
        (nn.ModuleDict({"features": nn.Identity()}), "net has no method features"),
        (taking(lambda images: {}), r"got features\(images\): got an unexpected .*'timestep'"),
        (answering(lambda x: x), r"must return \{block: map\}, got Tensor"),
        (answering(lambda x: {}), r"must return \{block: map\}, got nothing"),
        (answering(lambda x: {1: x[0]}), r"got \[3, 8, 8\] for 1 of one picture"),
        (answering(lambda x: {1: "x"}), "got str for 1 of one picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_is_named(network, said):
    with pytest.raises(UserError, match=said) as told:
        own(network)
    assert "\n" not in str(told.value)


def test_a_block_that_does_not_come_is_named():
    net = own(Net())
    net.network.features = lambda images, **_: {"stem": images}
    with pytest.raises(UserError, match=r"asked for \['half'\], 'half' is missing"):
        net.features(torch.rand(1, 3, 8, 8), blocks=["half"])


def test_a_node_keeps_what_was_said_of_it():
    node = wrapper_node({"_target_": "torch.nn.Conv2d", "kernel_size": 3, "checkpoint": "x.pt"})
    assert node["_target_"] == "diffdict.backbones.wrapper.CustomBackbone"
    assert node["network"] == {"_target_": "torch.nn.Conv2d", "kernel_size": 3}
    assert (node["name"], node["checkpoint"]) == ("conv2d", "x.pt")
    sized = wrapper_node({"_target_": "diffdict.backbones.pixels.Pixels", "name": "mine"})[
        "network"
    ]
    assert (sized["image_size"], sized["name"]) == ("${dataset.image_size}", "mine")


@pytest.mark.parametrize("target", ["nowhere.Net", "torch.nn.Nowhere", "Net", ""])
def test_what_cannot_be_imported_is_said(target):
    with pytest.raises(UserError, match=r"cannot be imported: .* on PYTHONPATH"):
        wrapper_node({"_target_": target})
