"""The denoiser of codes against its golden case, its sizes, and files of either name."""

import re

import pytest
import torch

from diffdict.backbones.latent_mlp import LatentMLP
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.diffusion.schedules import make_schedule, respace
from diffdict.errors import UserError
from tests.inputs import normal

EPS = Objective(variance="fixed_small")
CHAIN = make_schedule("constant", 1000)


@torch.no_grad()
def test_every_output_of_the_golden_case(golden):
    case = golden("diti_latent")
    config = case.facts["config"]
    net = case.fill(
        LatentMLP(
            config["input_channel"],
            config["model_channel"],
            config["num_layers"],
            config["time_emb_channel"],
            config["use_norm"],
            config["dropout"],
        )
    )
    shape = (3, config["input_channel"])
    z, noise, t = normal(9131, shape), normal(9132, shape), torch.tensor([3, 250, 999])
    z_t = CHAIN.noised(z, t, noise)
    case.check("z_t", z_t)
    case.check("eps", net(z, t))
    case.check("loss.l1", (noise - net(z_t, t)).abs().mean()[None])
    respacing = f"linspace{config['steps']}"
    chain = respace(CHAIN, respacing)
    case.check("alphas_cumprod", CHAIN.alphas_cumprod[[0, 1, 10, 100, 500, 999]])
    case.check("timestep_map", chain.timesteps)
    z_T = normal(9133, shape).clamp(-1, 1)[:, :, None, None]
    for name, clip in (("as_published_clamped", True), ("unclamped", False)):
        last = ddim(
            lambda x, t: net(x.flatten(1), t)[:, :, None, None],
            z_T,
            CHAIN,
            objective=EPS,
            respacing=respacing,
            clip_denoised=clip,
            stop=0,
        ).x
        case.check(f"sample.{name}", last.flatten(1))


@pytest.mark.parametrize(("layers", "parameters"), [(10, 54_109_696), (20, 117_106_176)])
def test_published_sizes(layers, parameters):
    width, code = 2048, 512
    net = LatentMLP(4, 8, layers)
    shapes = {**dict(net.named_parameters())}
    names = {4: code, 8: width, 12: width + code, 64: 64}
    total = 0
    for parameter in shapes.values():
        size = 1
        for side in parameter.shape:
            size *= names[side]
        total += size
    assert total == parameters


def test_a_file_of_either_name_is_whole():
    net = LatentMLP(8, 16, 3, 4)
    state = net.state_dict()
    for dropped in ("linear_emb", "cond_layers"):
        half = {key: value for key, value in state.items() if dropped not in key}
        other = LatentMLP(8, 16, 3, 4)
        other.load_state_dict(half)
        z, t = normal(1, (2, 8)), torch.tensor([3, 900])
        assert torch.equal(other(z, t), net(z, t))


def test_without_norm_and_with_dropout():
    net = LatentMLP(8, 16, 3, 4, norm=False, dropout=0.5)
    assert not any("norm" in key for key in net.state_dict())
    z, t = normal(1, (2, 8)), torch.tensor([3, 900])
    assert not torch.equal(net(z, t), net(z, t))
    net.eval()
    assert torch.equal(net(z, t), net(z, t))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 1}, "layers is at least 2, got 1: give layers=2"),
        ({"code": 0}, "code is at least 1, got 0"),
        ({"dropout": 1.0}, "dropout lies in [0, 1), got 1.0"),
    ],
)
def test_networks_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        LatentMLP(**({"code": 8, "width": 16, "layers": 3, "time_width": 4} | settings))
