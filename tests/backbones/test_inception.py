"""FID's Inception against pytorch-fid's answers, torchmetrics' FID over it, and bad input."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from diffdict import checkpoints
from diffdict.backbones.inception import Inception
from diffdict.errors import UserError
from diffdict.metrics.frechet import FeatureStatistics, frechet_distance


@pytest.fixture(scope="module")
def net(golden) -> Inception:
    return golden("fid_inception").fill(Inception())


def unit(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def test_every_golden_output(golden, net):
    case = golden("fid_inception")
    assert sum(p.numel() for p in net.parameters()) == case.facts["n_params"]
    with torch.no_grad():
        maps = net.features(2 * unit(9101, (2, 3, 32, 32)) - 1)
        other = net(2 * unit(9102, (1, 3, 40, 48)) - 1)
    assert {block: tuple(x.shape[1:]) for block, x in maps.items()} == net.shapes
    got = {"first_max_pool": maps[64], "second_max_pool": maps[192], "pre_aux": maps[768]}
    got |= {"pool3": maps[2048].flatten(1), "pool3.of_40x48": other}
    assert got.keys() == {output["name"] for output in case.facts["outputs"]}
    for name, x in got.items():
        case.check(name, x)


@torch.no_grad()
def test_sfids_vector_is_the_first_channels_place_by_place(net):
    kept, images = [], unit(3, (2, 3, 16, 16))
    hook = net.Mixed_6d.register_forward_hook(lambda *call: kept.append(call[-1].clone()))
    (vector,) = net.features(images, blocks=["spatial"]).values()
    hook.remove()
    wanted = [
        [kept[0][i, c, y, x] for y in range(17) for x in range(17) for c in range(7)]
        for i in (0, 1)
    ]
    assert torch.equal(vector.flatten(1), torch.tensor(wanted))


def test_its_classes_are_told_without_the_bias(net):
    vectors = unit(4, (3, 2048))
    wanted = (vectors @ net.fc.weight.T).softmax(1)
    torch.testing.assert_close(net.class_shares(vectors), wanted)
    assert net.class_shares(vectors).sum(1).tolist() == pytest.approx([1] * 3)


def test_a_pass_ends_with_the_last_block_asked_for(net):
    called = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in net.named_children()
    ]
    images = unit(1, (1, 3, 16, 16))
    with torch.no_grad():
        got = net.features(images, blocks=[192, 64])
    for hook in hooks:
        hook.remove()
    assert list(got) == [64, 192]
    assert called[-1] == "Conv2d_4a_3x3"


class Shown(nn.Module):
    """A block as torchmetrics calls a network: bytes in, vectors out."""

    num_features = 192

    def __init__(self, net: Inception) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        maps = self.net.features(images.float() / 127.5 - 1, blocks=[192])
        return maps[192].mean((2, 3)).double()


@torch.no_grad()
def test_torchmetrics_finds_the_same_distance_with_this_network(net):
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (12, 3, 8, 8), generator=random).to(torch.uint8)
    shown = Shown(net)
    theirs, statistics = FrechetInceptionDistance(feature=shown), []
    theirs.set_dtype(torch.float64)
    for real, images in ((True, pictures[:6]), (False, pictures[6:] // 2)):
        theirs.update(images, real=real)
        metric = FeatureStatistics(192)
        metric.update(shown(images))
        statistics += metric.compute()
    got = frechet_distance(*statistics).item()
    assert got == pytest.approx(theirs.compute().item(), rel=1e-4)  # singular: a root of noise


def test_half_networks_take_and_give_halves(net):
    half = copy.deepcopy(net).to(torch.bfloat16)
    with torch.no_grad():
        got, wanted = (each.features(unit(1, (1, 3, 16, 16)), blocks=[64]) for each in (half, net))
    assert got[64].dtype == torch.bfloat16
    assert (got[64].float() - wanted[64]).norm() < 0.03 * wanted[64].norm()


def test_its_file_fills_it(net, tmp_path):
    path = tmp_path / "pt_inception.pth"
    torch.save(net.state_dict(), path)
    loaded = Inception(checkpoint=str(path))
    assert all(torch.equal(x, net.state_dict()[key]) for key, x in loaded.state_dict().items())
    assert "FID Inception" in checkpoints.describe(path)


def test_its_weights_are_released_with_a_licence():
    entry = checkpoints.releases()["fid_inception"]
    assert entry.url.endswith("/fid_weights/pt_inception-2015-12-05-6726825d.pth")
    assert entry.licence == "Apache 2.0"
    assert entry.sha256.startswith("6726825d")  # as the file's name ends
    assert entry.suffix == ".pth"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"AuxLogits.fc.weight": torch.ones(9, 9)}, "the file holds a classifying Inception v3"),
        ({"fc.weight": torch.ones(1000, 2048)}, r"fc.weight \(1000, 2048\) in the file"),
    ],
)
def test_other_inceptions_are_refused_in_one_line(net, tmp_path, change, says):
    path = tmp_path / "inception_v3.pth"
    torch.save(net.state_dict() | change, path)
    with pytest.raises(UserError, match=rf"does not fit inception: .*{says}") as told:
        Inception(checkpoint=str(path))
    assert "\n" not in str(told.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.ones(4, 4, 1, 1)}, tmp_path / "other.pth")
    says = "the file holds a ResNet, the network is a FID Inception"
    with pytest.raises(UserError, match=says):
        Inception(checkpoint=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"blocks": [5]}, "inception has no block 5. Its blocks: 64, 192, spatial, 768, 2048"),
        ({"timestep": 50}, "inception has no timesteps, got timestep=50"),
    ],
)
def test_wrong_questions_are_named(net, call, says):
    with pytest.raises(UserError, match=says):
        net.features(torch.zeros(1, 3, 8, 8), **call)


def test_a_picture_without_a_side_is_named():
    with pytest.raises(UserError, match="image_size is 1 or more, got 0"):
        Inception(image_size=0)
