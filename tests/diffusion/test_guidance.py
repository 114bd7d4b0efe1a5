"""Guidance by a vector: 1 is the network to the bit, and the published sum otherwise."""

import pytest
import torch

from diffdict.backbones.denoiser import Given
from diffdict.backbones.rcdm import RCDM
from diffdict.diffusion.guidance import check_guidance, guided
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.errors import UserError


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = RCDM(16, 32, 1, "1,1", "8", num_head_channels=16, learn_sigma=True, ssl_dim=5).eval()
    for parameter in net.requires_grad_(False).parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return net


X, T = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
GIVEN = Given(vector=torch.randn(2, 5))


def test_one_is_the_network_to_the_bit(net):
    assert torch.equal(guided(net, GIVEN, 1.0)(X, T), net(X, T, GIVEN))


@pytest.mark.parametrize("given", [GIVEN, Given(vector=GIVEN.vector[:1])])
def test_the_prediction_is_pushed_and_the_variance_is_owns(net, given):
    own, none = net(X, T, given), net(X, T)
    got = guided(net, given, 2.5)(X, T)
    torch.testing.assert_close(got[:, :3], (none + 2.5 * (own - none))[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[:, 3:], own[:, 3:], atol=1e-5, rtol=0)
    torch.testing.assert_close(guided(net, given, 0)(X, T)[:, :3], none[:, :3], atol=1e-5, rtol=0)


def test_samplers_take_it_as_any_network(net):
    drawn = [
        ddim(guided(net, GIVEN, g), X, net.process, objective=Objective(), respacing="ddim2").x
        for g in (1.0, 3.0)
    ]
    assert drawn[0].shape == drawn[1].shape
    assert not torch.allclose(*drawn)


@pytest.mark.parametrize("guidance", [-0.5, float("nan"), float("inf")])
def test_a_weight_leads_somewhere(guidance):
    with pytest.raises(UserError, match=r"model\.guidance is a weight from 0 on"):
        check_guidance(guidance, 0.1, "net")


def test_other_weights_need_a_network_that_learned_without(net):
    check_guidance(1.0, None, "rcdm")
    check_guidance(2.0, 0.1, "rcdm")
    for drop in (None, 0.0, net.drop):
        with pytest.raises(UserError, match=r"rcdm has not: model\.guidance=1\.0"):
            check_guidance(1.5, drop, "rcdm")
    with pytest.raises(UserError, match="none is given"):
        guided(net, Given(), 2.0)
