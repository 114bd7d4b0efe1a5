"""Results: whole or absent, plain JSON whatever was found, and tables that other programs read."""

import csv
import json
import math

import pytest
import pytorch_lightning as pl
import torch

from diffdict.results.record import KeepResults


class Finder(pl.LightningModule):
    """A task with tables."""

    def __init__(self, tables):
        super().__init__()
        self.found = tables

    def tables(self):
        return self.found


def run(folder, tables=None, **figures):
    """A run that has ended: its trainer and its module."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(default_root_dir=folder, accelerator="cpu", **quiet)
    for name, value in figures.items():
        trainer.callback_metrics[name.replace("_", "/", 1)] = torch.tensor(value)
    return trainer, pl.LightningModule() if tables is None else Finder(tables)


def kept(folder):
    return json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def test_what_was_found_is_kept_with_what_was_chosen(tmp_path):
    facts = {"class_names": ("sky", "sea"), "grid": (4, 4), "mean": torch.ones(3)}
    results = KeepResults("train", "sae", ["block=3"], {"sae": "topk"}, {"block": 3}, facts)
    results.on_fit_end(*run(tmp_path, val_fvu=0.5, train_loss=2.0))
    results.write(*run(tmp_path, test_fvu=0.25))
    found = kept(tmp_path)
    assert found["format"] == 1
    assert (found["door"], found["task"], found["overrides"]) == ("train", "sae", ["block=3"])
    assert found["choices"] == {"sae": "topk"}
    assert found["config"] == {"block": 3}
    assert found["facts"] == {"class_names": ["sky", "sea"], "grid": [4, 4]}
    assert found["metrics"] == {"test/fvu": 0.25, "train/loss": 2.0, "val/fvu": 0.5}
    assert found["tables"] == {}
    assert found["seconds"] >= 0
    assert set(found["versions"]) == {"diffdict", "torch", "python"}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_no_number_is_null(tmp_path):
    tables = {"concepts": [{"class": "sky", "iou": math.nan, "latent": 3}]}
    KeepResults("train", "sae").write(*run(tmp_path, tables, test_iou=math.nan, test_l0=math.inf))
    found = kept(tmp_path)
    assert found["metrics"] == {"test/iou": None, "test/l0": None}
    assert found["tables"] == {"concepts": [{"class": "sky", "iou": None, "latent": 3}]}
    with (tmp_path / "concepts.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"class": "sky", "iou": "", "latent": "3"}]


def test_a_table_that_fails_leaves_no_results(tmp_path):
    with pytest.raises(TypeError):
        KeepResults("train", "sae").write(*run(tmp_path, {"concepts": [{"class": object()}]}))
    assert not (tmp_path / "results.json").exists()
