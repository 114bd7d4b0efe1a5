"""`backbone.taps=modulated`: a transformer block's input as its attention is given it."""

import pytest
import torch
import torch.nn.functional as F

from tests.backbones.test_hub_families import MODULATED, OUTER, arguments, make, theirs
from tests.tiny_pipelines import SIDE, latent_shape


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("family", MODULATED)
def test_a_modulated_map_is_the_norm_scaled_and_shifted_once_a_picture(family, folders, images):
    """Between the norm of a block's input and what its attention reads lies one line a channel."""
    t = torch.tensor([200, 700])
    noise = torch.randn(2, *latent_shape(family))
    given = make(family, folders, taps="input").features(images, t, None, noise)
    read = make(family, folders, taps="modulated").features(images, t, None, noise)
    assert list(given) == list(read) == OUTER[family]
    for block in given:
        x, y = given[block].flatten(2), read[block].flatten(2)
        x = F.layer_norm(x.mT, x.shape[1:2], eps=1e-6).mT
        slope = (x * (y - y.mean(2, keepdim=True))).sum(2) / (
            x * (x - x.mean(2, keepdim=True))
        ).sum(2)
        line = slope[..., None] * x
        line = line + (y - line).mean(2, keepdim=True)
        torch.testing.assert_close(line, y, atol=1e-4, rtol=1e-4)
        assert not torch.equal(slope[0], slope[1]), "of the timestep"


@pytest.mark.parametrize("family", ["dit", "sd3", "flux"])
def test_a_modulated_map_is_what_the_norm_of_diffusers_answers(family, folders, images):
    noise = torch.randn(2, *latent_shape(family))
    block, t = OUTER[family][1], 400
    own, met = theirs(family, folders[family]), []
    layer = own.get_submodule(f"{block}.norm1")
    layer.register_forward_hook(lambda module, args, output: met.append(output[0]))
    net = make(family, folders, taps="modulated")
    x_t, _ = net.noised(net.prepared(images), t, noise)
    with torch.no_grad():
        own(**arguments(family, x_t, t), return_dict=False)
    ours = net.features(images, t, [block], noise)[block]
    torch.testing.assert_close(ours.flatten(2).mT, met[0], atol=1e-5, rtol=1e-4)
