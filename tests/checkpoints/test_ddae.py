"""DDAE's checkpoints: the layouts that they come in, what is read off them, and whose they are."""

import pytest
import torch

from diffdict import checkpoints
from diffdict.backbones.ddae_unet import DdaeUnet
from diffdict.errors import UserError
from diffdict.results.weights import export_weights

FLAGS = {"image_size": 16, "n_channels": 32, "ch_mults": [1, 2], "is_attn": [False, True]}


def made(seed=0, **changes):
    torch.manual_seed(seed)
    return DdaeUnet(**FLAGS | changes)


def published(net, average):
    """A file as the original's training leaves it."""

    def under(prefix, of):
        return {f"{prefix}nn_model.{key}": value for key, value in of.state_dict().items()}

    averages = {"initted": torch.tensor(True), "step": torch.tensor(7)}
    averages |= under("online_model.", net) | under("ema_model.", average)
    return {"MODEL": under("module.", net), "EMA": averages, "opt": {"state": {}}}


def run(net, **backbone):
    """A run of task=diffusion, as train.py keeps it."""
    state = {f"ema.{key}": value for key, value in net.state_dict().items()}
    config = {"backbone": {"_target_": "…", **backbone}}
    return {"pytorch-lightning_version": "2", "state_dict": state, "config": config}


def test_every_published_layout_loads_as_it_is(tmp_path, capsys):
    net, average = made(1), made(2)
    whole = published(net, average)
    for name, content, expected in (
        ("whole", whole, average),
        ("MODEL", {"MODEL": whole["MODEL"]}, net),
        ("bare", {f"nn_model.{key}": value for key, value in net.state_dict().items()}, net),
        ("flat", net.state_dict(), net),
    ):
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        loaded = made(checkpoint=str(path))
        for key, value in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), (name, key)
        assert loaded.sha256 == checkpoints.inspect(path).sha256
        said = capsys.readouterr().out
        assert said == f"{path} does not say its framework: taken for ddpm\n"


@pytest.mark.parametrize("name", ["ddpm_ddpm", "ddpm_ddpmpp_small", "edm_small"])
def test_flags_are_read_off_the_golden_networks(golden, name):
    facts = golden(f"ddae_{name}").facts
    shapes = {key: tuple(shape) for key, shape, _ in facts["state_dict"]}
    kind, flags = checkpoints.architecture.infer_architecture(shapes, 32)
    network = facts["config"]["network"]
    assert kind == "DDAE U-Net"
    assert flags.pop("augment_dim") == 0
    assert flags == {key: network[key] for key in flags}
    assert len(flags) == 5


def test_info_names_the_network_and_its_flags(tmp_path):
    net = made(augment_dim=9, use_res_for_updown=True, n_blocks=1)
    torch.save(published(net, net), tmp_path / "model_1999.pth")
    said = checkpoints.describe(tmp_path / "model_1999.pth")
    for line in ("DDAE U-Net", "[1, 2]", "[False, True]", "augment_dim           9"):
        assert line in said


def test_a_wrong_flag_is_named(tmp_path):
    torch.save(made().state_dict(), tmp_path / "net.pth")
    for changes, told in (
        ({"ch_mults": [2, 2]}, "backbone.ch_mults=[1,2] (the network has [2,2])"),
        ({"is_attn": [True, True]}, "backbone.is_attn=[false,true]"),
        ({"n_blocks": 1}, "backbone.n_blocks=2 (the network has 1)"),
        ({"use_res_for_updown": True}, "backbone.use_res_for_updown=false"),
        ({"augment_dim": 9}, "backbone.augment_dim=0 (the network has 9)"),
    ):
        with pytest.raises(UserError, match="does not fit") as error:
            made(checkpoint=str(tmp_path / "net.pth"), **changes)
        assert told in str(error.value)


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        ({"framework": "edm"}, {}, "learned with framework=edm, this network has ddpm: say back"),
        ({}, {"framework": "edm"}, "learned with framework=ddpm, this network has edm"),
        ({"n_T": 500}, {}, "learned with n_T=500, this network has 1000"),
        ({"betas": [1e-4, 0.03]}, {}, r"learned with betas=\[0.0001, 0.03\], this"),
        (
            {"framework": "edm", "sigma_data": 0.4},
            {"framework": "edm"},
            "learned with sigma_data=0.4, this network has 0.5",
        ),
    ],
)
def test_our_own_files_say_what_they_were_learned_under(tmp_path, capsys, theirs, ours, told):
    net = made(1, **theirs)
    kept = {"framework": "ddpm", "n_T": 1000, "betas": [1e-4, 0.02], "sigma_data": 0.5, **theirs}
    torch.save(run(net, **kept), tmp_path / "last.ckpt")
    export_weights(net, tmp_path / "best.safetensors", {})
    for path in (tmp_path / "last.ckpt", tmp_path / "best.safetensors"):
        with pytest.raises(UserError, match=told):
            made(checkpoint=str(path), **ours)
        made(checkpoint=str(path), **theirs)
    assert capsys.readouterr().out == ""


def test_the_grid_of_levels_is_free(tmp_path):
    torch.save(run(made(framework="edm"), framework="edm", steps=18), tmp_path / "last.ckpt")
    made(framework="edm", steps=40, rho=3, checkpoint=str(tmp_path / "last.ckpt"))


def test_another_s_flags_are_no_flags(tmp_path):
    from safetensors.torch import save_file

    for said in ("{", "[1]", "words"):
        save_file(made().state_dict(), tmp_path / "x.safetensors", {"flags": said})
        made(checkpoint=str(tmp_path / "x.safetensors"))
