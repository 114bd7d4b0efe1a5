"""The config that a checkpoint brings, and what is typed over it."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from diffdict.cli.paths import folder
from diffdict.run.rewrite import checkpoint_config

KEPT = {
    "data": {"_target_": "a.Tokens", "batch_size": 64, "choose_pictures": 100, "dtype": "fp16"},
    "model": {"_target_": "b.Model", "vote": "majority"},
    "dataset": {"name": "faces"},
    "timestep": 50,
    "block": 3,
}


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ([], {}),
        (["data.choose_pictures=7"], {"choose_pictures": 7}),
        (["data.choose_pictures=null"], {"choose_pictures": None}),
        (["data.source=live", "data.batch_size=8"], {"source": "live", "batch_size": 8}),
        (["+data.dtype=fp32"], {"dtype": "fp32"}),
        (["debug=limit"], {"num_workers": 0}),
    ],
)
def test_data_is_as_it_was_trained_but_for_what_is_typed(tmp_path, monkeypatch, words, data):
    torch.save({"config": KEPT, "state_dict": {}}, tmp_path / "last.ckpt")
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg = compose("evaluate", [f"ckpt_path={tmp_path}/last.ckpt", *words])
    hydra = OmegaConf.create({"overrides": {"task": words}})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    merged = checkpoint_config(cfg)
    assert OmegaConf.to_container(merged.data) == KEPT["data"] | data
    assert (merged.timestep, merged.block, merged.dataset.name) == (50, 3, "faces")


def test_what_is_added_changes_the_named_key_alone(tmp_path, monkeypatch):
    kept = {
        **KEPT,
        "model": {"_target_": "b.Model", "test": {"pictures": 8, "seed": 1}},
        "dataset": {"name": "faces", "splits": {"train": 9, "test": 4}},
    }
    torch.save({"config": kept, "state_dict": {}}, tmp_path / "last.ckpt")
    words = ["+model.test.pictures=0", "+dataset.splits.test=2"]
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg = compose("evaluate", [f"ckpt_path={tmp_path}/last.ckpt", *words])
    hydra = OmegaConf.create({"overrides": {"task": words}})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    merged = checkpoint_config(cfg)
    assert merged.model.test == {"pictures": 0, "seed": 1}
    assert merged.dataset == {"name": "faces", "splits": {"train": 9, "test": 2}}


def test_what_was_taken_from_the_trainer_stays_as_it_was(tmp_path, monkeypatch):
    """experiment=pdae_toy lets its rate fall to 0 at ${trainer.max_steps}; evaluate.py has none."""
    kept = {
        **KEPT,
        "trainer": {"max_steps": 7},
        "model": {"_target_": "b.Model", "rates": {"anneal_steps": "${trainer.max_steps}"}},
    }
    torch.save({"config": kept, "state_dict": {}}, tmp_path / "last.ckpt")
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg = compose("evaluate", [f"ckpt_path={tmp_path}/last.ckpt"])
    hydra = OmegaConf.create({"overrides": {"task": []}})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    merged = checkpoint_config(cfg)
    assert merged.trainer.max_steps == -1
    assert merged.model.rates.anneal_steps == 7
