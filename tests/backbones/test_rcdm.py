"""RCDM's network against the original's answers, and what an unconditional file starts."""

import inspect

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffdict.backbones.denoiser import Given
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.rcdm import RCDM
from diffdict.diffusion.objectives import Objective, training_losses
from diffdict.diffusion.samplers import ddpm
from diffdict.diffusion.schedules import q_sample
from diffdict.errors import UserError
from tests.inputs import image, normal

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "num_heads": 2,
    "learn_sigma": True,
}


def built(case) -> RCDM:
    flags = inspect.signature(GuidedUNet).parameters
    config = {k: v for k, v in case.facts["config"].items() if k in flags}
    return case.fill(RCDM(**config, ssl_dim=case.facts["ssl_dim"]))


def maps(net: RCDM, x_t, t, given) -> dict:
    """Middle and output blocks of a pass, and its answer."""
    seen = {}
    parts = {"middle_block": net.middle_block}
    parts |= {f"output_blocks.{i}": block for i, block in enumerate(net.output_blocks)}
    hooks = [
        part.register_forward_hook(lambda *called, name=name: seen.update({name: called[2]}))
        for name, part in parts.items()
    ]
    seen["final"] = net(x_t, t, given)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_every_golden_output(golden):
    case = golden("rcdm_tiny")
    net = built(case)
    assert list(net.state_dict()) == [key for key, _, _ in case.facts["state_dict"]]
    shape = (4, 3, 32, 32)
    x0, noise, vector = image(10001, shape), normal(10002, shape), normal(10003, (4, 48))
    got = {"ssl_emb": net.ssl_emb(vector)}
    for step in (10, 700):
        t = torch.full((4,), step)
        x_t = q_sample(net.process, x0, t, noise)
        seen = maps(net, x_t, t, Given(vector=vector))
        got |= {f"t{step}.{name}": value for name, value in seen.items()}
        got[f"t{step}.final_without_feat"] = net(x_t, t)
        got[f"t{step}.final_feat_zero"] = net(x_t, t, Given(vector=torch.zeros(4, 48)))
    t = torch.tensor([0, 10, 500, 999])
    x_t = q_sample(net.process, x0, t, noise)
    plain = net(x_t, t, Given(vector=vector))
    for edits in ({}, {block: lambda h, t: h for block in net.shapes}):
        assert torch.equal(net(x_t, t, Given(vector=vector), edits=edits), plain)
    output, objective = net(x_t, t, Given(vector=vector)), Objective(loss="mse")
    losses = training_losses(objective, net.process, output, x0, x_t, t, noise)
    parts = zip(("loss", "mse", "vb"), losses, strict=True)
    got |= {f"training_losses.{name}": value for name, value in parts}
    for name, given in (
        ("final", Given(vector=vector)),
        ("one_feat_broadcast", Given(vector=vector[:1])),
    ):
        got[f"p_sample_loop.5.{name}"] = ddpm(
            lambda x, t, given=given: net(x, t, given),
            normal(10004, shape),
            net.process,
            objective=Objective(),
            respacing="5",
            noise=lambda step: normal(10011 + 4 - step, shape),
        ).x
    for output in case.facts["outputs"]:
        case.check(output["name"], got[output["name"]])


@torch.no_grad()
def test_classes_beside_the_vector(golden):
    case = golden("rcdm_classcond")
    net, shape = built(case), (2, 3, 32, 32)
    x0, noise, vector = image(10701, shape), normal(10702, shape), normal(10703, (2, 40))
    y = torch.from_numpy(np.random.default_rng(10706).integers(0, 1000, size=2))
    for step in (5, 600):
        t = torch.full((2,), step)
        x_t = q_sample(net.process, x0, t, noise)
        got = {
            "final": net(x_t, t, Given(y, vector)),
            "final_without_feat": net(x_t, t, Given(y)),
            "one_feat_broadcast": net(x_t, t, Given(y, vector[:1])),
            "other_labels": net(x_t, t, Given((y + 1) % 1000, vector)),
        }
        for output in case.facts["outputs"]:
            when, name = output["name"].split(".", 1)
            if when == f"t{step}":
                case.check(output["name"], got[name])


def unconditional(tmp_path, **changes) -> tuple[GuidedUNet, str]:
    """A U-Net of which no layer is nothing, and its file."""
    torch.manual_seed(0)
    net = GuidedUNet(**FLAGS | changes).eval()
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    save_file(net.state_dict(), tmp_path / "unet.safetensors")
    return net, str(tmp_path / "unet.safetensors")


@torch.no_grad()
def test_an_unconditional_file_starts_an_rcdm_exactly(tmp_path):
    net, path = unconditional(tmp_path)
    x, t, vector = torch.randn(3, 3, 16, 16), torch.tensor([0, 400, 999]), torch.randn(3, 7)
    typed = RCDM(**FLAGS, ssl_dim=7, checkpoint=path).eval()
    waiting = RCDM(**FLAGS, checkpoint=path).eval()
    assert torch.equal(waiting(x, t), net(x, t))
    with pytest.raises(UserError, match="takes no vector"):
        waiting(x, t, Given(vector=vector))
    before = waiting.sha256
    waiting.widen(7)
    assert waiting.sha256 != before
    for started in (typed, waiting):
        assert torch.equal(started(x, t, Given(vector=vector)), net(x, t))
        assert torch.equal(started(x, t), net(x, t))
    with pytest.raises(UserError, match="takes vectors of width 7"):
        waiting.widen(8)


@torch.no_grad()
def test_which_pictures_are_told_is_said_by_row(tmp_path):
    _, path = unconditional(tmp_path)
    net = RCDM(**FLAGS, checkpoint=path).eval()
    net.widen(7)
    for parameter in net.ssl_emb.parameters():
        parameter.add_(torch.randn_like(parameter))
    x, t, vector = torch.randn(2, 3, 16, 16), torch.tensor([5, 400]), torch.randn(2, 7)
    told = torch.tensor([True, False])
    got = net(x, t, Given(vector=vector, told=told))
    torch.testing.assert_close(got[:1], net(x, t, Given(vector=vector))[:1])
    torch.testing.assert_close(got[1:], net(x, t)[1:])
    assert not torch.allclose(net(x, t), net(x, t, Given(vector=vector)))
    every = Given(vector=vector, told=torch.tensor([True, True]))
    assert torch.equal(net(x, t, every), net(x, t, Given(vector=vector)))
    torch.testing.assert_close(
        net(x, t, Given(vector=vector[0])), net(x, t, Given(vector=vector[[0, 0]]))
    )
    with pytest.raises(UserError, match="vectors of width 7, got 8"):
        net(x, t, Given(vector=torch.randn(2, 8)))
    with pytest.raises(UserError, match="one for all, got 3 for 2 pictures"):
        net(x, t, Given(vector=torch.randn(3, 7)))


def test_width_and_kind_are_read_off_a_file(tmp_path):
    path = str(tmp_path / "rcdm.safetensors")
    save_file(RCDM(**FLAGS, ssl_dim=9).state_dict(), path)
    net = RCDM(**FLAGS, checkpoint=path)
    assert net.condition.width == 9
    assert len(net.sha256) == 64
    assert list(net.features(torch.randn(1, 3, 16, 16), 50, [1])) == [1]
    with pytest.raises(UserError, match=r"width 9, got ssl_dim=5.*representation.part=head"):
        RCDM(**FLAGS, ssl_dim=5, checkpoint=path)
    with pytest.raises(UserError, match="backbone=rcdm"):
        GuidedUNet(**FLAGS, checkpoint=path)
    with pytest.raises(UserError, match="ssl_dim is the width"):
        RCDM(**FLAGS, ssl_dim=0)


def test_released_networks_have_the_published_size():
    flags = {
        "image_size": 128,
        "num_channels": 256,
        "num_res_blocks": 2,
        "attention_resolutions": "32,16,8",
        "num_heads": 4,
        "learn_sigma": True,
        "resblock_updown": True,
        "use_scale_shift_norm": True,
    }
    with torch.device("meta"):
        net = RCDM(**flags, ssl_dim=2048)
    assert sum(p.numel() for p in net.parameters()) == 422_603_782
    assert len(net.state_dict()) == 494
