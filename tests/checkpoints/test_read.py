"""Every layout is opened; what is torn, foreign or hostile is refused in one line."""

import argparse
import os
import pathlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffdict import checkpoints, files
from diffdict.errors import UserError


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
