"""MAE's encoder against the original's answers, its released files, and the laws of features."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

from diffdict.backbones.imagenet.statistics import MEAN, STD
from diffdict.backbones.mae import MAE, positions
from diffdict.errors import UserError

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
IMAGES = torch.from_numpy(np.random.default_rng(5001).standard_normal((2, 3, 64, 64), np.float32))


@pytest.fixture(scope="module")
def case(golden):
    return golden("mae_tiny")


def encoder(case):
    """The case without what only the decoder has."""
    kept = [each for each in case.facts["state_dict"] if not each[0].startswith(MAE.unused)]
    probes = [p for p in case.facts["weight_probe"] if not p["key"].startswith(MAE.unused)]
    return case._replace(facts=case.facts | {"state_dict": kept, "weight_probe": probes})


@pytest.fixture(scope="module")
def net(case) -> MAE:
    """The network of the golden case; it takes normalised pictures."""
    flags = inspect.signature(MAE).parameters
    config = {key: value for key, value in case.facts["config"].items() if key in flags}
    return encoder(case).fill(MAE(**config))


@pytest.fixture
def tiny() -> MAE:
    torch.manual_seed(0)
    return MAE(**TINY)


def test_every_golden_output_of_the_encoder(case, net):
    shapes = {key: list(x.shape) for key, x in net.state_dict().items()}
    assert shapes == {key: shape for key, shape, _ in encoder(case).facts["state_dict"]}
    with torch.no_grad():
        got = {f"features.block{b}": x for b, x in net.features(IMAGES).items()}
        tokens = net(IMAGES)
        got["encoder.patch_embed"] = net.patch_embed.proj(IMAGES).flatten(2).mT
    got |= {"encoder.latent_cls": tokens[:, 0], "encoder.latent_patches_unshuffled": tokens[:, 1:]}
    got["pos_embed_sincos.encoder"] = positions(8, 64)
    checked = 0
    for output in case.facts["outputs"]:
        if not output["name"].startswith("full."):  # the decoder's
            case.check(output["name"], got[output["name"]])
            checked += 1
    assert checked == 7


def test_a_fresh_network_has_the_fixed_positions(net):
    wanted = positions(8, 64).float()
    assert torch.equal(MAE(64, 8, 64, 1, 4).pos_embed[0], wanted)
    assert not torch.equal(net.pos_embed[0], wanted)  # a file's own are taken as they are
    assert "pos_embed" in net.state_dict()


def test_the_released_network_has_its_size():
    with torch.device("meta"):
        net = MAE()
        assert list(net.features(torch.empty(1, 3, 256, 256))) == list(range(12, 24))
    assert sum(channels for channels, _, _ in net.shapes.values()) == 24 * 1024
    assert net.shapes[12] == (1024, 32, 32)
    layer = 12 * 1024**2 + 13 * 1024
    assert sum(p.numel() for p in net.parameters()) == 24 * layer + (3 * 64 + 1 + 1 + 2) * 1024


def test_pictures_are_shown_in_imagenets_colours(net):
    mean, std = (torch.tensor(colours)[:, None, None] for colours in (MEAN, STD))
    other = copy.copy(net)
    other.normalise = True
    with torch.no_grad():
        wanted, got = net.features(IMAGES), other.features(2 * (IMAGES * std + mean) - 1)
    assert not MAE(**TINY).normalise
    for block, x in wanted.items():
        torch.testing.assert_close(got[block], x, atol=1e-4, rtol=1e-4)


def test_blocks_are_asked_for_by_number_and_later_ones_are_not_computed(tiny):
    images, called = torch.rand(2, 3, 32, 32) * 2 - 1, []
    for number, block in enumerate(tiny.blocks):
        block.register_forward_hook(lambda *_, n=number: called.append(n))
    with torch.no_grad():
        got = tiny.features(images, blocks=[1, 0, 1])
        assert called == [0, 1]
        every = tiny.features(images)
    assert list(got) == [0, 1]
    assert {block: tuple(x.shape[1:]) for block, x in every.items()} == tiny.shapes
    assert all(torch.equal(x, every[block]) for block, x in got.items())


def test_all_are_all_and_the_usual_ones_the_last_twelve():
    net = MAE(**TINY | {"depth": 14})
    assert net.chosen("all") == list(range(14))
    assert net.chosen(None) == list(range(2, 14))
    assert net.chosen(0) == [0]


def test_maps_stand_where_the_patches_do(tiny):
    """A change in one patch changes that place most; and places are rows, then columns."""
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    changed = images.clone()
    changed[:, :, 8:16, 24:32] *= -1
    with torch.no_grad():
        moved = tiny.features(changed, blocks=[0])[0] - tiny.features(images, blocks=[0])[0]
    assert moved.norm(dim=1).flatten().argmax().item() == 1 * 4 + 3


def test_half_networks_take_and_give_halves(net):
    half = copy.deepcopy(net).to(torch.bfloat16)
    with torch.no_grad():
        got, wanted = half.features(IMAGES), net.features(IMAGES)
    for block, x in wanted.items():
        assert got[block].dtype == torch.bfloat16
        assert (got[block].float() - x).norm() < 0.05 * x.norm()


def same(ours: MAE, theirs: MAE) -> bool:
    return all(torch.equal(x, theirs.state_dict()[key]) for key, x in ours.state_dict().items())


def released(net: MAE) -> dict[str, Tensor]:
    """The weights with what a decoder adds."""
    decoder = {"mask_token": torch.ones(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    return net.state_dict() | decoder


def test_a_released_file_fills_the_encoder(tiny, tmp_path):
    path = tmp_path / "mae.pth"
    torch.save({"model": released(tiny), "optimizer": {"state": {}}, "epoch": 4}, path)
    loaded = MAE(**TINY, checkpoint=str(path))
    assert same(loaded, tiny)
    assert loaded.sha256 != tiny.sha256
    fresh = MAE(**TINY)
    assert not same(fresh, tiny)
    fresh.load_state_dict(released(tiny))
    assert same(fresh, tiny)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 4}, r"backbone\.patch_size=8 \(the network has 4\)"),
        ({"patch_size": 16}, r"backbone\.patch_size=8 \(the network has 16\)"),
        ({"img_size": 64}, r"of 32×32 pictures, this network of 64×64: say dataset.image_size=32"),
        ({"depth": 2}, r"backbone\.depth=3 \(the network has 2\)"),
        ({"embed_dim": 64}, r"backbone\.embed_dim=32 \(the network has 64\)"),
        ({"mlp_ratio": 2}, r"fc1.weight \(128, 32\) in the file, \(64, 32\) in the network"),
    ],
)
def test_a_file_of_other_sizes_is_refused_in_one_line(tiny, tmp_path, changes, said):
    torch.save({"model": released(tiny)}, tmp_path / "mae.pth")
    with pytest.raises(UserError, match=rf"mae\.pth does not fit mae: .*{said}") as told:
        MAE(**TINY | changes, checkpoint=str(tmp_path / "mae.pth"))
    assert "\n" not in str(told.value)


def test_a_file_without_an_encoder_is_refused(tiny, tmp_path):
    torch.save({"model": {"decoder_pred.weight": torch.ones(8, 8)}}, tmp_path / "mae.pth")
    with pytest.raises(UserError, match="missing from the file"):
        MAE(**TINY, checkpoint=str(tmp_path / "mae.pth"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"blocks": [3]}, "mae has no block 3. Its blocks: 0, 1, 2"),
        ({"timestep": 50}, "mae has no timesteps, got timestep=50"),
        ({"images": torch.zeros(1, 3, 64, 64)}, "got 64×64: say dataset.image_size=32"),
        ({"images": torch.zeros(1, 3, 32, 40)}, "got 32×40"),
    ],
)
def test_wrong_questions_are_named(tiny, call, says):
    with pytest.raises(UserError, match=says):
        tiny.features(**{"images": torch.zeros(1, 3, 32, 32)} | call)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch_size": 5}, "img_size must be a multiple of patch_size, got 32 and 5"),
        ({"num_heads": 3}, "embed_dim must be a multiple of num_heads, got 32 and 3"),
        ({"embed_dim": 34}, "embed_dim must be a multiple of 4, got 34 and 4"),
    ],
)
def test_impossible_flags_are_named(changes, says):
    with pytest.raises(UserError, match=says):
        MAE(**TINY | changes)
