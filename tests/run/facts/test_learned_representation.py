"""The representation that weights bring: of a run, of exported weights, and never a stranger's."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from diffdict.backbones.rcdm import RECIPE
from diffdict.run.facts.learned_representation import (
    learned_representation,
    with_learned_representation,
)

SEER = {"_target_": "diffdict.backbones.pixels.Pixels", "name": "pixels", "image_size": 16}
POOLED = {
    "_target_": "diffdict.representations.pooled.Pooled",
    "backbone": SEER,
    "timestep": None,
    "block": "pixels",
    "name": "cells",
}


def exported(path, recipe):
    """Weights that say it."""
    facts = {} if recipe is None else {RECIPE: json.dumps(recipe)}
    save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt", **facts})
    return str(path)


def of_run(path, representation):
    """A checkpoint whose config refers to what stands beside it, as configs do."""
    config = {"representation": representation, "seer": {"backbone": SEER, "block": "pixels"}}
    content = {"state_dict": {"weight": torch.zeros(2)}, "pytorch-lightning_version": "2.5.0"}
    torch.save({**content, "config": config}, path)
    return str(path)


def test_both_kinds_of_weights_say_it(tmp_path):
    assert learned_representation(exported(tmp_path / "a.safetensors", POOLED)) == POOLED
    written = {**POOLED, "backbone": "${seer.backbone}", "block": "${seer.block}"}
    assert learned_representation(of_run(tmp_path / "last.ckpt", written)) == POOLED


def test_weights_that_say_nothing(tmp_path):
    assert learned_representation(exported(tmp_path / "a.safetensors", None)) is None
    assert learned_representation(of_run(tmp_path / "last.ckpt", None)) is None
    assert learned_representation("toy_ddpm") is None
    assert learned_representation("rcdm_dino_trunk") is None
    assert learned_representation(tmp_path / "nowhere.ckpt") is None


@pytest.mark.parametrize(
    "recipe",
    [
        {**POOLED, "_target_": "os.system"},
        {**POOLED, "backbone": {"_target_": "os.system", "command": "touch EXECUTED"}},
        {**POOLED, "more": [{"_target_": "subprocess.run"}]},
        {**POOLED, "_target_": "diffdict.backbones.pixels.Pixels"},
        [POOLED],
        "text",
    ],
)
def test_what_is_none_of_ours_is_not_built_at_a_files_word(tmp_path, recipe):
    assert learned_representation(exported(tmp_path / "a.safetensors", recipe)) is None


def test_it_is_brought_where_none_is_typed(tmp_path, capsys):
    path = exported(tmp_path / "a.safetensors", POOLED)
    asked = {"condition": {"number": 1}, "representation": None, "backbone": {"checkpoint": path}}
    assert with_learned_representation(OmegaConf.create(asked)).representation == POOLED
    assert f"that of {path}: cells" in capsys.readouterr().out
    for left in (
        {**asked, "condition": None},
        {**asked, "representation": {"name": "typed"}},
        {**asked, "backbone": {"checkpoint": None}},
    ):
        cfg = with_learned_representation(OmegaConf.create(left))
        assert cfg == OmegaConf.create(left)
    assert capsys.readouterr().out == ""
