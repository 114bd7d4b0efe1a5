"""A backbone's passes: the same whoever asks, stored, streamed or labelled."""

import pytest
import torch

from diffdict.backbones.base import Backbone
from diffdict.backbones.mae import MAE
from diffdict.backbones.pixels import Pixels
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.features.locations import in_order, listed, place, where
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.sources import LiveSource


class Chain(Backbone):
    """Two blocks, and a chain of ten timesteps."""

    name, image_size, num_timesteps = "chain", 8, 10
    shapes = {"a": (3, 8, 8), "b": (3, 8, 8)}  # noqa: RUF012 - never written

    def features(self, images, timestep=None, blocks=None, noise=None):
        self.check_timestep(timestep)
        maps = {"a": images * timestep, "b": images + timestep}
        return {block: maps[block] for block in self.chosen(blocks)}


@pytest.fixture(scope="module")
def mae():
    torch.manual_seed(0)
    return MAE(img_size=16, patch_size=8, embed_dim=8, depth=14, num_heads=2, mlp_ratio=1)


@pytest.mark.parametrize(("block", "count"), [("all", 14), (["all"], 14), (None, 12), ([3, 1], 2)])
def test_all_are_all_and_nothing_said_the_usual_ones(mae, block, count):
    source = LiveSource(ToyFaces("train", image_size=16), mae, None, block)
    assert [(s.timestep, s.block) for s in source.streams] == source.passes.keys
    assert len(source.streams) == len(source.maps([0, 1])) == count


def test_a_diffusion_network_is_told_which_timestep_is_missing():
    with pytest.raises(UserError, match="needs a timestep between 0 and 9, got None"):
        LiveSource(ToyFaces("train"), Chain(), None, "all")


def test_maps_come_timestep_by_timestep_and_only_those_wanted():
    passes = Passes(Chain(), [3, 1, 3], ["b", "a"])
    images = torch.rand(2, 3, 8, 8)
    maps = passes.maps(images, [0, 1])
    assert list(maps) == passes.keys == [(3, "a"), (3, "b"), (1, "a"), (1, "b")]
    some = passes.maps(images, [0, 1], [(1, "b")])
    assert list(some) == [(1, "b")]
    assert torch.equal(some[1, "b"], maps[1, "b"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": Noise(draws=0)}, "noise.draws ≥ 1, got 0"),
        ({"compute": "int8"}, "compute is one of fp32, bf16, fp16, got int8"),
    ],
)
def test_what_cannot_be_asked(options, words):
    with pytest.raises(UserError, match=words):
        Passes(Pixels(8), None, "pixels", **options)


def test_words_for_people_and_for_a_command_line():
    assert place([50, 150], 6) == "timestep 50, 150, block 6"
    assert place(None, "all") == "block all"
    assert where(50, [6, 5]) == ["timestep=50", "block=[6,5]"]
    assert where(None, "layer1.0") == ["block=layer1.0"]
    assert listed([5, 6, 5]) == [5, 6]
    assert in_order(["b", 7, 5]) == [5, 7, "b"]
    with pytest.raises(UserError, match="ask for one or several, got none"):
        listed([])
