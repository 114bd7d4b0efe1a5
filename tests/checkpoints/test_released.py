"""Released weights are fetched once, and stay what they were at first sight."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffdict import checkpoints, files
from diffdict.checkpoints import released as names
from diffdict.errors import UserError


def test_every_released_weight_says_its_licence():
    table = checkpoints.releases()
    assert {"lsun_horse", "openai_lsun_horse_nodropout", "mae_ffhq", "swav_w2_lsun_cat"} <= set(
        table
    )
    places = {f"{entry.url}/{entry.inside}" for entry in table.values()}
    assert len(places) == len(table) == 43
    for name, entry in table.items():
        place = f"{entry.url}/{entry.inside}" if entry.inside else entry.url
        assert re.fullmatch(r"https://\S+\.(pt|pth|pth\.tar|torch)", place)
        assert entry.suffix in (".pt", ".pth", ".pth.tar", ".torch")
        assert entry.licence
        assert entry.note
        assert ("non-commercial" in entry.licence) == (
            not name.startswith(
                (
                    "lsun",
                    "ffhq",
                    "openai",
                    "fid",
                    "dpm",
                    "encoder_simclr",
                    "encoder_barlow",
                    "encoder_dino",
                )
            )
        )


def test_what_no_program_can_fetch_says_where_it_lies_and_belongs(tmp_path):
    with pytest.raises(
        UserError, match=r"take ffhq128/checkpoint\.pt out of https://drive"
    ) as told:
        checkpoints.resolve("dpm_ffhq128", tmp_path)
    assert f"put it at {tmp_path}/dpm_ffhq128.pt" in str(told.value)
    torch.save({"ema_denoise_fn": {"w": torch.ones(1)}, "denoise_fn": {}}, tmp_path / "mine.pt")
    (tmp_path / "mine.pt").rename(tmp_path / "dpm_ffhq128.pt")
    weights = checkpoints.load_state_dict("dpm_ffhq128", folder=tmp_path)
    assert weights.state["w"].tolist() == [1.0]


def test_an_unknown_name_lists_the_known(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"No checkpoint 'lsun_hose'.*lsun_horse, "):
        checkpoints.resolve("lsun_hose")
    with pytest.raises(UserError, match=r"No file mae_mine\.pth: name a checkpoint"):
        checkpoints.resolve("mae_mine.pth")
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
    table = dict(checkpoints.releases())
    table["lsun_horse"] = table["lsun_horse"]._replace(sha256="0" * 64)
    monkeypatch.setattr(names, "releases", lambda: table)
    with pytest.raises(UserError, match="has changed"):
        checkpoints.load_state_dict("lsun_horse")


def test_a_folder_that_only_its_owner_writes_still_serves(horse, monkeypatch):
    def refuse(path, data):
        raise UserError("Cannot write")

    checkpoints.fetch("lsun_horse")
    monkeypatch.setattr(names, "write_atomic", refuse)
    assert checkpoints.load_state_dict("lsun_horse").sha256 == files.sha256(horse)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mae_imagenet", "No weights of mae were released for imagenet, only for lsun_bedroom, "),
        ("swav_w2_dogs", "No weights of swav_w2 were released for dogs, only for lsun_bedroom, "),
    ],
)
def test_a_domain_without_weights_names_those_that_have_some(name, said):
    with pytest.raises(UserError, match=f"{said}.*: domain=(\\w+) dataset.image_size=256") as why:
        checkpoints.load_state_dict(name)
    domain = str(why.value).partition("domain=")[2].split()[0]
    assert name.rpartition("_")[0] + f"_{domain}" in checkpoints.releases()
