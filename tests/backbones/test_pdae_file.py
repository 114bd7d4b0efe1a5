"""Files in the released layout: opened, told apart, refused; and encoders out of them."""

import re

import pytest
import torch
import yaml

from diffdict import checkpoints
from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.dpm_file import open_dpm
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pdae import Pdae
from diffdict.backbones.pdae_file import open_pdae
from diffdict.backbones.rcdm import RCDM
from diffdict.backbones.resnet10 import ResNet10
from diffdict.errors import UserError
from tests.inputs import normal

FLAGS = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "num_heads": 2,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
CONFIG = {
    "input_channel": 3,
    "base_channel": 32,
    "channel_multiplier": [1, 2],
    "num_residual_blocks_of_a_block": 1,
    "attention_resolutions": [2],
    "num_heads": 2,
    "head_channel": -1,
    "use_new_attention_order": False,
    "dropout": 0.1,
}


def built(encoder=None, **flags):
    torch.manual_seed(0)
    encoder = encoder or CodeEncoder(16, 8, [32, 64])
    pdae = Pdae(GuidedUNet(16, **FLAGS | flags), encoder, encoder.shapes["code"][0])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pdae.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) / 10
    return pdae


def released(pdae, wrapper="", ema="ema_"):
    """The file as the original's trainer writes it."""
    decoder = {**pdae.denoiser.state_dict(), **pdae.shift.state_dict()}
    parts = {"encoder": pdae.encoder.state_dict(), "decoder": decoder}
    content = {"step": 1000, "optimizer": {"state": {}, "param_groups": []}, "scaler": {}}
    for name, state in parts.items():
        content[f"{ema}{name}"] = {f"{wrapper}{key}": value for key, value in state.items()}
        if ema:
            content[name] = {key: torch.zeros_like(value) for key, value in state.items()}
    return content


def write(path, content):
    torch.save(content, path)
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("ema", ["ema_", ""])
def test_a_released_file_is_the_network(tmp_path, wrapper, ema):
    pdae = built().eval()
    path = write(tmp_path / "pdae.pt", released(pdae, wrapper, ema))
    other = open_pdae(16, path, num_heads=2).eval()
    assert other.state_dict().keys() == pdae.state_dict().keys()
    x, t = normal(1, (2, 3, 16, 16)), torch.tensor([5, 900])
    ours, theirs = (net.denoise(x, t, net.encoder(x)) for net in (pdae, other))
    assert torch.equal(ours.eps, theirs.eps)
    assert torch.equal(ours.gradient, theirs.gradient)
    assert other.sha256 == checkpoints.load_state_dict(path).sha256


@torch.no_grad()
@pytest.mark.parametrize(
    "flags",
    [
        {"learn_sigma": True},
        {"resblock_updown": False},
        {"use_scale_shift_norm": False},
        {"channel_mult": "2,1"},
        {"channel_mult": "0.5,1,1", "num_channels": 64},
    ],
)
def test_flags_are_read_off_the_shapes(tmp_path, flags):
    pdae = built(**flags)
    other = open_pdae(16, write(tmp_path / "pdae.pt", released(pdae)), num_heads=2)
    assert other.denoiser.flags == pdae.denoiser.flags
    assert other.denoiser.learn_sigma == pdae.denoiser.learn_sigma


@torch.no_grad()
def test_an_encoder_is_taken_out_of_a_whole_file_or_its_own(tmp_path):
    for kind, encoder in ((CodeEncoder, CodeEncoder(16, 8, [32, 64])), (ResNet10, ResNet10(16))):
        pdae = built(encoder)
        content = released(pdae)
        x = normal(1, (2, 3, 16, 16))
        settings = {"code": 8, "widths": [32, 64]} if kind is CodeEncoder else {}
        for name in ("whole", "alone"):
            path = write(tmp_path / f"{name}.pt", content)
            net = kind(16, **settings, checkpoint=path)
            assert torch.equal(net.eval()(x), pdae.encoder.eval()(x))
            content = {"ema_encoder": content["ema_encoder"], "step": 3}
        whole = open_pdae(16, str(tmp_path / "whole.pt"), num_heads=2).eval()
        assert torch.equal(whole.encoder(x), pdae.encoder(x))


def test_info_names_each_kind(tmp_path):
    pdae = built()
    content = released(pdae)
    found = checkpoints.inspect(write(tmp_path / "pdae.pt", content))
    assert (found.layout, found.kind) == ("pdae", checkpoints.PDAE)
    assert found.flags["code"] == 8
    assert found.flags["widths"] == [32, 64]
    assert found.flags["image_size"] == 16
    assert found.flags["attention_resolutions"] == "8"
    assert found.flags["class_cond"] is False
    alone = checkpoints.inspect(write(tmp_path / "decoder.pt", {"x": content["ema_decoder"]}))
    assert alone.kind == "decoder of a PDAE without its encoder"
    assert (alone.flags["class_cond"], alone.flags["code"]) == (False, 8)
    encoder = checkpoints.inspect(write(tmp_path / "e.pt", {"ema_encoder": content["ema_encoder"]}))
    assert (encoder.kind, encoder.flags["image_size"]) == ("code encoder", 16)
    dpm = {"ema_denoise_fn": pdae.denoiser.state_dict(), "denoise_fn": {}, "step": 3}
    dpm = checkpoints.inspect(write(tmp_path / "dpm.pt", dpm))
    assert (dpm.layout, dpm.kind) == ("ema_denoise_fn", "guided-diffusion U-Net")


def test_a_linear_encoder_is_none_of_pictures(tmp_path):
    state = {"encoder.0.weight": torch.zeros(3, 4), "decoder.0.weight": torch.zeros(4, 3)}
    assert checkpoints.inspect(write(tmp_path / "sae.pt", state)).kind is None


@pytest.mark.parametrize("half", ["denoiser", "shift_half"])
def test_half_a_decoder_is_told(tmp_path, half):
    content = released(built())
    shift = half == "shift_half"
    content["ema_decoder"] = {
        key: value
        for key, value in content["ema_decoder"].items()
        if (key.startswith(("label_emb", "shift_")) == shift) or key == "shift_out.2.weight"
    }
    path = write(tmp_path / "cut.pt", content)
    with pytest.raises(UserError, match=r"cut.pt (does not fit pdae|holds a PDAE \(encoder)"):
        open_pdae(16, path, num_heads=2)


def test_files_of_other_kinds(tmp_path):
    pdae = built()
    dpm = write(tmp_path / "dpm.pt", {"ema_denoise_fn": pdae.denoiser.state_dict()})
    with pytest.raises(UserError, match=r"dpm.pt holds a guided-diffusion U-Net, not PDAE's enc"):
        open_pdae(16, dpm)
    whole = write(tmp_path / "pdae.pt", released(pdae))
    with pytest.raises(UserError, match=r"the file holds a PDAE .* Choose the backbone"):
        GuidedUNet(16, **FLAGS, checkpoint=whole)
    with pytest.raises(UserError, match=r"is of 16×16 pictures, got image_size=64: say dataset.im"):
        open_pdae(64, whole)
    with pytest.raises(UserError, match="A PDAE without weights has no gap to fill: give backbone"):
        open_pdae(16, None)
    with pytest.raises(UserError, match="num_heads must divide every attending width, got 3"):
        open_pdae(16, whole, num_heads=3)
    with pytest.raises(UserError, match=r"backbone.code=8 \(the network has 9\)"):
        CodeEncoder(16, 9, [32, 64], checkpoint=whole)
    content = released(pdae)
    content["ema_encoder"] = CodeEncoder(16, 9, [32, 64]).state_dict()
    with pytest.raises(UserError, match="code is what the encoder makes, 9 numbers, got 8"):
        Pdae(pdae.denoiser, CodeEncoder(16, 9), 8)
    with pytest.raises(UserError, match="does not fit pdae"):
        open_pdae(16, write(tmp_path / "two.pt", content), num_heads=2)


def test_a_published_config_says_what_no_shape_tells(tmp_path):
    path = write(tmp_path / "pdae.pt", released(built()))
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump({"denoise_fn_config": CONFIG | {"num_heads": 4}}))
    flags = open_pdae(16, path, flags=str(config)).denoiser.flags
    assert (flags.num_heads, flags.dropout, flags.attention_sizes) == (4, 0.1, {2})


def test_a_published_config_may_list_factors_that_no_level_reaches(tmp_path):
    config = tmp_path / "config.yml"
    for side, factors in (("8", [8, 2]), ("", []), ("", [8])):
        path = write(tmp_path / "pdae.pt", released(built(attention_resolutions=side)))
        content = CONFIG | {"attention_resolutions": factors}
        config.write_text(yaml.safe_dump({"denoise_fn_config": content}))
        flags = open_pdae(16, path, flags=str(config)).denoiser.flags
        assert flags.attention_sizes == {16 // int(side)} if side else not flags.attention_sizes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No file "),
        ("a: [", "is no YAML: give the config.yml as it was published"),
        ("[1, 2]", "does not say base_channel under denoise_fn_config"),
        ({"trained_ddpm_config": "x"}, "does not say base_channel under denoise_fn_config"),
        (
            {"denoise_fn_config": CONFIG | {"base_channel": 64}},
            "base_channel makes num_channels=64",
        ),
        ({"denoise_fn_config": CONFIG | {"channel_multiplier": [1, 3]}}, "channel_multiplier mak"),
        ({"denoise_fn_config": CONFIG | {"channel_multiplier": [2, 1]}}, "channel_multiplier mak"),
        ({"denoise_fn_config": CONFIG | {"channel_multiplier": ["a"]}}, "channel_multiplier mak"),
        ({"denoise_fn_config": CONFIG | {"num_heads": "two"}}, "num_heads is a number or a bool"),
        ({"denoise_fn_config": CONFIG | {"attention_resolutions": [1]}}, "attention_resolutions m"),
        ({"denoise_fn_config": CONFIG | {"attention_resolutions": "2"}}, "are downsampling factor"),
        ({"denoise_fn_config": CONFIG | {"learn_sigma": True}}, "learn_sigma makes learn_sigma=Tr"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, content, message):
    path = write(tmp_path / "pdae.pt", released(built()))
    config = tmp_path / "config.yml"
    if content is not None:
        config.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(UserError, match=re.escape(message)):
        open_pdae(16, path, flags=str(config))


@torch.no_grad()
def test_a_diffusion_network_of_pdae_is_a_plain_one(tmp_path):
    net = built(dropout=0.1).denoiser
    file = {"ema_denoise_fn": net.state_dict(), "denoise_fn": {}, "step": 3}
    path, config = write(tmp_path / "dpm.pt", file), tmp_path / "config.yml"
    config.write_text(yaml.safe_dump({"denoise_fn_config": CONFIG}))
    other = open_dpm(16, path, flags=str(config))
    assert other.settings == net.settings
    x, t = normal(1, (2, 3, 16, 16)), torch.tensor([5, 900])
    assert torch.equal(other.eval()(x, t), net(x, t))
    assert open_dpm(16, path).flags.num_heads == 4
    with pytest.raises(UserError, match=r"holds a PDAE .*, not one of PDAE's diffusion networks"):
        open_dpm(16, write(tmp_path / "pdae.pt", released(built())))
    with pytest.raises(
        UserError, match=r"dpm are read off its weights, got backbone.checkpoint=nu"
    ):
        open_dpm(16, None)
    with pytest.raises(UserError, match="num_heads must divide every attending width, got 3"):
        open_dpm(16, path, num_heads=3)
    told = write(tmp_path / "rcdm.pt", RCDM(16, **FLAGS, ssl_dim=5).state_dict())
    with pytest.raises(UserError, match="not one of PDAE's diffusion networks"):
        open_dpm(16, told)
