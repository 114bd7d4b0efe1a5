"""A misfit between file and network names the flag, and changes nothing."""

import pytest
import torch
from torch import nn

from diffdict import checkpoints
from diffdict.errors import UserError

TINY = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2,2",
    "attention_resolutions": "16,8",
    "num_head_channels": 16,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "learn_sigma": True,
}


def tiny(**flags) -> nn.Module:
    from diffdict.backbones.guided_unet import GuidedUNet

    return GuidedUNet(**{**TINY, **flags})


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("num_channels", 64, "backbone.num_channels=32 (the network has 64)"),
        ("num_res_blocks", 2, "backbone.num_res_blocks=1 (the network has 2)"),
        ("channel_mult", "1,2,3", "backbone.channel_mult='1,2,2' (the network has '1,2,3')"),
        ("channel_mult", "1,2", "backbone.channel_mult='1,2,2'"),
        (
            "attention_resolutions",
            "8",
            "backbone.attention_resolutions='16,8' (the network has '8')",
        ),
        ("resblock_updown", False, "backbone.resblock_updown=true (the network has false)"),
        ("use_scale_shift_norm", False, "backbone.use_scale_shift_norm=true"),
        ("learn_sigma", False, "backbone.learn_sigma=true (the network has false)"),
        ("class_cond", True, "backbone.class_cond=false (the network has true)"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path, flag, value, told):
    torch.save(tiny().state_dict(), tmp_path / "unet.pt")
    for wrong, right in ((tiny(**{flag: value}), None), (None, value)):
        if right is not None:  # the other way round: the file has the odd flag
            torch.save(tiny(**{flag: right}).state_dict(), tmp_path / "unet.pt")
            wrong, told = tiny(), f"backbone.{flag}="
        before = {key: each.clone() for key, each in wrong.state_dict().items()}
        with pytest.raises(UserError, match=r"unet\.pt does not fit") as error:
            checkpoints.load_into(wrong, tmp_path / "unet.pt")
        assert told in str(error.value)
        assert "\n" not in str(error.value)
        assert all(torch.equal(each, before[key]) for key, each in wrong.state_dict().items())


def test_flags_are_read_off_the_golden_networks(golden):
    for name in ("gd_unet_tiny", "gd_unet_noupdown", "gd_unet_classcond"):
        facts = golden(name).facts
        config = facts["config"]
        shapes = {key: tuple(shape) for key, shape, _ in facts["state_dict"]}
        kind, flags = checkpoints.architecture.infer_architecture(shapes, config["image_size"])
        assert kind == "guided-diffusion U-Net"
        assert flags == {key: config[key] for key in flags}
        assert len(flags) == 8


def test_another_architecture_is_named(tmp_path):
    state = {"patch_embed.proj.weight": torch.ones(8, 3, 2, 2), "pos_embed": torch.ones(1, 17, 8)}
    torch.save(state, tmp_path / "mae.pth")
    with pytest.raises(UserError, match="the file holds a MAE ViT, the network is a guided-diff"):
        checkpoints.load_into(tiny(), tmp_path / "mae.pth")
    resnet = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, bias=False), "layer1": nn.Module()})
    resnet["layer1"].add_module("0", nn.ModuleDict({"conv1": nn.Conv2d(64, 64, 1, bias=False)}))
    wide = {
        "conv1.weight": torch.ones(128, 3, 7, 7),
        "layer1.0.conv1.weight": torch.ones(128, 128, 1, 1),
    }
    torch.save(wide, tmp_path / "swav.pth")
    with pytest.raises(UserError, match="swav is width 1, swav_w2 width 2"):
        checkpoints.load_into(resnet, tmp_path / "swav.pth")


def test_missing_and_unexpected_entries_are_named(net, tmp_path):
    state = net.state_dict()
    state["head.weight"] = state.pop("0.bias")
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(
        UserError, match=r"1 missing from the file \(0\.bias\); 1 unknown to the network \(head"
    ):
        checkpoints.load_into(net, tmp_path / "x.pt")
    state["0.bias"] = state["head.weight"]
    torch.save(state, tmp_path / "x.pt")
    checkpoints.load_into(net, tmp_path / "x.pt", ignore=("head.",))
