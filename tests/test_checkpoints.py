"""Checkpoints are found, proven, opened without running them, and a misfit names the flag."""

import argparse
import json
import os
import pathlib
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffdict import checkpoints, files
from diffdict.checkpoints import names
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


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value + 1 for key, value in state.items()}


LAYOUTS = {
    "flat": lambda s: s,
    "model": lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 3},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "module.": lambda s: {"state_dict": under("module.", s)},
    "_orig_mod.": lambda s: under("_orig_mod.", s),
    "both wrappers": lambda s: under("module._orig_mod.", s),
    "compiled child": lambda s: {k.replace(".", "._orig_mod.", 1): v for k, v in s.items()},
    "ema beside model": lambda s: {"model": other(s), "ema": s},
    "ema_pytorch": lambda s: {
        "ema": {**under("ema_model.", s), **under("online_model.", other(s)), "step": torch.ones(1)}
    },
    "one unknown name": lambda s: {"weights_of_mine": s, "epoch": 3},
    "a shared prefix": lambda s: {"state_dict": under("backbone.", s)},
    "our run": lambda s: {
        "pytorch-lightning_version": "2.5.0",
        "epoch": 7,
        "global_step": 900,
        "state_dict": {**under("net.", s), **under("trained.", other(s))},
        "config": {"model": {"_target_": "diffdict.tasks.diffusion.Diffusion"}},
    },
    "an averaged copy": lambda s: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**under("net.", other(s)), **under("ema.", s)},
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_out(net, tmp_path, layout, zipped):
    wanted = {key: value.clone() for key, value in net.state_dict().items()}
    path = tmp_path / "x.ckpt"
    torch.save(LAYOUTS[layout](wanted), path, _use_new_zipfile_serialization=zipped)
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert checkpoints.load_into(fresh, str(path)) == files.sha256(path)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, wanted[key])


def test_safetensors_in_half_fill_a_network_in_single(net, tmp_path):
    path = tmp_path / "x.safetensors"
    halves = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(halves, path, metadata={"made_by": "a test"})
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    checkpoints.load_into(fresh, path)
    assert fresh[0].weight.dtype == torch.float32
    assert torch.equal(fresh[0].weight, net[0].weight.half().float())
    assert checkpoints.load_state_dict(path).facts == {"layout": "flat", "made_by": "a test"}
    renamed = path.rename(tmp_path / "weights.bin")
    assert checkpoints.load_state_dict(renamed).state.keys() == halves.keys()


def test_a_declared_layout_is_taken_at_its_word(net, tmp_path):
    state, path = net.state_dict(), tmp_path / "x.pt"
    torch.save({"encoder": state, "decoder": other(state)}, path)
    got = checkpoints.load_state_dict(path, "decoder").state
    assert torch.equal(got["0.bias"], state["0.bias"] + 1)
    with pytest.raises(UserError, match=r"several networks: its entries are encoder, decoder"):
        checkpoints.load_state_dict(path)
    with pytest.raises(UserError, match=r"layout=ema says: its entries are encoder, decoder"):
        checkpoints.load_state_dict(path, "ema")


def test_a_run_without_a_network_says_what_it_holds(tmp_path):
    path = tmp_path / "sae.ckpt"
    torch.save(
        {"pytorch-lightning_version": "2.5", "state_dict": {"sae.decoder": torch.ones(2)}}, path
    )
    with pytest.raises(UserError, match=r"no network under `net\.`, but sae"):
        checkpoints.load_state_dict(path)
    assert checkpoints.inspect(path).layout == "state_dict"


class Hostile:
    """A pickle that makes a file when it is opened as an object."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, zipped):
    path, proof = tmp_path / "evil.pt", tmp_path / "it_ran"
    content = {"state_dict": {"w": torch.ones(1)}, "args": Hostile(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for door in (checkpoints.load_state_dict, checkpoints.inspect, checkpoints.config_of):
        with pytest.raises(UserError, match=r"evil\.pt is refused: .*system") as told:
            door(path)
        assert "\n" not in str(told.value)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the pickle is a real one
    assert proof.exists()


def test_a_namespace_is_allowed_and_nothing_in_it_is(tmp_path):
    path = tmp_path / "mae.pth"
    torch.save({"model": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}, path)
    assert checkpoints.load_state_dict(path).facts == {"layout": "model", "args": {"lr": 0.1}}
    hidden = argparse.Namespace(where=pathlib.PurePosixPath("x"))
    torch.save({"model": {"w": torch.ones(1)}, "args": hidden}, path)
    with pytest.raises(UserError, match=r"is refused: .*pathlib"):
        checkpoints.load_state_dict(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>log in</html>", "is a web page"),
        (b"\n <html>moved</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"just a text", "no whole torch checkpoint"),
        (bytes(5000), "no whole torch checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path, content, word):
    for name in ("x.pt", "x.ckpt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=word) as told:
            checkpoints.load_state_dict(tmp_path / name)
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_said_wherever_it_was_cut(tmp_path, form, part):
    path, state = tmp_path / "x.pt", {"a": torch.rand(500), "b": torch.rand(30, 30)}
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(UserError, match=r"is empty|is no whole|is refused") as told:
        checkpoints.load_state_dict(path)
    assert "\n" not in str(told.value)


def test_a_safetensors_header_that_lies_is_said(tmp_path):
    path = tmp_path / "x.safetensors"
    for header in (b"{not json", b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(UserError, match="no whole safetensors"):
            checkpoints.load_state_dict(path)
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="no whole safetensors"):
        checkpoints.load_state_dict(path)


def test_other_contents_are_said(tmp_path):
    path = tmp_path / "x.pt"
    for content, word in (
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "no network"),
        ({}, "no network"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=word):
            checkpoints.load_state_dict(path)
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(UserError, match=r"is refused: .*Linear.*state_dict\(\)"):
        checkpoints.load_state_dict(path)


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
        kind, flags = checkpoints.flags.anatomy(shapes, config["image_size"])
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


def test_every_released_weight_says_its_licence():
    table = checkpoints.released()
    assert {"lsun_horse", "openai_lsun_horse_nodropout", "mae_ffhq", "swav_w2_lsun_cat"} <= set(
        table
    )
    assert len({entry.url for entry in table.values()}) == len(table) == 31
    for name, entry in table.items():
        assert re.fullmatch(r"https://\S+\.(pt|pth|pth\.tar)", entry.url)
        assert entry.suffix in (".pt", ".pth", ".pth.tar")
        assert entry.licence
        assert entry.note
        assert ("non-commercial" in entry.licence) == (
            not name.startswith(("lsun", "ffhq", "openai"))
        )


def test_an_unknown_name_lists_the_known(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"No checkpoint 'lsun_hose'.*lsun_horse, "):
        checkpoints.resolve("lsun_hose")
    with pytest.raises(UserError, match="is a folder"):
        checkpoints.resolve(tmp_path)
    save_file({"w": torch.ones(1)}, tmp_path / "drawn.safetensors")
    monkeypatch.setattr(names, "PACKAGED", tmp_path)
    assert checkpoints.resolve("drawn") == tmp_path / "drawn.safetensors"


@pytest.fixture
def horse(tmp_path, monkeypatch) -> Path:
    """A release that lies in the folder of weights, its download replaced by a copy."""
    torch.save({"w": torch.ones(3)}, tmp_path / "remote.pt")
    folder = tmp_path / "weights"

    def download(url, path, *, sha256=None, note=""):
        assert url.endswith("ddpm_checkpoints/lsun_horse.pt")
        assert "Licence: MIT" in note
        return files.write_atomic(path, (tmp_path / "remote.pt").read_bytes())

    monkeypatch.setattr(names, "download", download)
    monkeypatch.setenv("DIFFDICT_CHECKPOINTS", str(folder))
    return folder / "lsun_horse.pt"


def test_a_release_is_fetched_once_and_its_hash_kept(horse, monkeypatch):
    first = checkpoints.load_state_dict("lsun_horse")
    assert first.path == horse
    record = json.loads((horse.parent / "lsun_horse.pt.sha256.json").read_text())
    assert record["sha256"] == first.sha256 == files.sha256(horse)

    def never(*_):
        raise AssertionError("hashed or fetched again")

    monkeypatch.setattr(names, "sha256", never)
    monkeypatch.setattr(names, "download", never)
    assert checkpoints.load_state_dict("lsun_horse").sha256 == first.sha256


def test_a_release_that_changed_is_refused(horse):
    checkpoints.load_state_dict("lsun_horse")
    os.utime(horse)  # touched but the same: hashed again and accepted
    assert "as recorded" in checkpoints.verify(horse)
    checkpoints.load_state_dict("lsun_horse")
    torch.save({"w": torch.zeros(3)}, horse)
    for door in (checkpoints.load_state_dict, checkpoints.verify):
        with pytest.raises(UserError, match=r"lsun_horse\.pt has changed: its sha256 is .* it was"):
            door("lsun_horse")
    (horse.parent / "lsun_horse.pt.sha256.json").write_text("{")
    with pytest.raises(UserError, match="is damaged: remove it"):
        checkpoints.load_state_dict("lsun_horse")


def test_a_pinned_hash_is_stronger_than_the_first_sight(horse, monkeypatch):
    checkpoints.load_state_dict("lsun_horse")
    table = dict(checkpoints.released())
    table["lsun_horse"] = table["lsun_horse"]._replace(sha256="0" * 64)
    monkeypatch.setattr(names, "released", lambda: table)
    with pytest.raises(UserError, match="has changed"):
        checkpoints.load_state_dict("lsun_horse")


def test_a_folder_that_only_its_owner_writes_still_serves(horse, monkeypatch):
    def refuse(path, data):
        raise UserError("Cannot write")

    checkpoints.fetch("lsun_horse")
    monkeypatch.setattr(names, "write_atomic", refuse)
    assert checkpoints.load_state_dict("lsun_horse").sha256 == files.sha256(horse)


def test_a_description_tells_kind_flags_and_origin(tmp_path):
    path, net = tmp_path / "last.ckpt", tiny()
    torch.save(LAYOUTS["our run"](net.state_dict()), path)
    found = checkpoints.inspect(path)
    assert found.layout == "lightning"
    assert found.kind == "guided-diffusion U-Net"
    assert found.parameters == sum(each.numel() for each in net.parameters())
    assert found.dtypes == {"float32": found.tensors}
    assert found.flags["channel_mult"] == "1,2,2"
    assert (found.facts["epoch"], found.facts["global_step"]) == (7, 900)
    text = checkpoints.describe(path)
    for part in (found.sha256, "diffdict.tasks.diffusion", "900", f"{found.parameters:,} numbers"):
        assert part in text
    assert checkpoints.config_of(path)["model"]["_target_"].startswith("diffdict.tasks")
    torch.save(net.state_dict(), path)
    with pytest.raises(UserError, match="keeps no config"):
        checkpoints.config_of(path)


def test_verify_finds_a_flipped_bit_and_weights_that_are_no_numbers(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(5000.0)}, path)
    assert "1 tensors are whole and finite" in checkpoints.verify(path)
    with zipfile.ZipFile(path) as pack:
        at = next(info for info in pack.infolist() if info.filename.endswith("data/0"))
    data = bytearray(path.read_bytes())
    data[at.header_offset + 10_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged in .*data/0"):
        checkpoints.verify(path)
    torch.save({"w": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(UserError, match=r"no numbers: w \(1 of 1"):
        checkpoints.verify(path)
