"""task=doctor: sound cells from sick ones without a label, its advice, its order beside probes'."""

import json

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.data.images import ImageDataModule
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.seeds import entropy
from diffdict.tasks.doctor import Doctor
from tests.tasks.test_geometry import SIDE, Dots

COUNT = 11


class Net(Backbone):
    """A smooth block, one with a massive channel far off its centre, and one of noise alone."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.shapes = dict.fromkeys(("smooth", "massive", "noise"), (3, SIDE, SIDE))

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = images * (1 - timestep / 1000) + noise * timestep / 1000
        blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
        massive = x.clone()
        massive[:, 1] = 80 + x[:, 1]
        maps = {"smooth": blurred, "massive": massive, "noise": noise.expand_as(x).clone()}
        return {block: maps[block] for block in self.chosen(blocks)}


def measured(folder, batch_size=4, **options):
    asked = {"timestep": [50, 700], "block": "all", "noise": Noise(shared=False)}
    module = Doctor(Net(), **{**asked, **options})
    data = ImageDataModule(Dots, batch_size=batch_size, test_split="train")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.test(module, data, verbose=False)
    return module


def rows_of(module):
    return {(row["timestep"], row["block"]): row for row in module.tables()["cells"]}


def test_every_cell_has_its_illness(tmp_path, capsys):
    module = measured(tmp_path)
    rows = rows_of(module)
    assert len(rows) == 6
    for timestep in (50, 700):
        smooth, massive, noise = (rows[timestep, block] for block in module.passes.blocks)
        assert smooth["structure"] > max(massive["structure"], noise["structure"]) + 0.2
        assert massive["massive_channels"] == "1"
        assert massive["gamma"] > 10 > 1 > smooth["gamma"]
        assert noise["noise_share"] == pytest.approx(1, abs=0.1)
    assert rows[50, "smooth"]["noise_share"] < 0.1 < rows[700, "smooth"]["noise_share"]
    assert "Look first at timestep=" in capsys.readouterr().out


def test_gamma_and_noise_share_by_hand(tmp_path):
    row = rows_of(measured(tmp_path, batch_size=3))[700, "smooth"]
    net, views = Net(), []
    for seed in (0, entropy(0, 1)):
        noise = Noise(shared=False, seed=seed)
        maps = []
        for index in range(COUNT):
            own = noise.for_pictures([index], (3, SIDE, SIDE))[0]
            image = Dots("train")[index]["image"][None]
            maps.append(net.features(image, 700, ["smooth"], own)["smooth"])
        views.append(torch.cat(maps).double())
    first, second = views
    tokens = first.flatten(2).mT.flatten(0, 1)
    gamma = tokens.mean(0).norm() / tokens.var(0, correction=0).sum().sqrt()
    assert row["gamma"] == pytest.approx(float(gamma), rel=1e-4)
    within = ((first - second).square() / 2).mean(0).sum()
    between = ((first + second) / 2).var(0).sum() - within / 2
    assert row["noise_share"] == pytest.approx(float(within / (within + between)), rel=1e-4)


def test_the_advice_names_what_can_be_typed(tmp_path):
    assert measured(tmp_path, timestep=50, block="massive").advice() == (
        "Look first at timestep=50 block=massive, where likeness follows distance most: "
        "tokens lie off their centre (γ "
        f"{rows_of(measured(tmp_path, timestep=50, block='massive'))[50, 'massive']['gamma']:.2g}"
        "): data.normalise=channel; channels 1 dwarf the rest: data.drop_channels=[1]."
    )
    noisy = measured(tmp_path, timestep=50, block="noise").advice()
    assert "% of the variance is noise: noise.draws=4" in noisy


def probes(folder, worth, figure="miou", task="probe_sweep"):
    cells = [{"timestep": t, "block": b, figure: value} for (t, b), value in worth.items()]
    folder.mkdir()
    results = {"format": 1, "task": task, "tables": {"cells": cells}}
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def test_its_order_beside_that_of_probes(tmp_path, capsys):
    rows = rows_of(measured(tmp_path))
    like = {cell: row["structure"] ** 3 for cell, row in rows.items()}
    module = measured(tmp_path, probes=probes(tmp_path / "like", like))
    found = {row["figure"]: row["spearman"] for row in module.tables()["agreement"]}
    assert found["structure"] == pytest.approx(1)
    assert abs(found["gamma"]) < 1
    assert "Spearman" in capsys.readouterr().out
    against = {cell: -value for cell, value in like.items()}
    module = measured(tmp_path, probes=probes(tmp_path / "against", against))
    assert module.tables()["agreement"][-2] == {
        "figure": "structure",
        "spearman": pytest.approx(-1),
        "cells": 6,
    }


def test_settings_that_cannot_be(tmp_path):
    two = {(50, "smooth"): 0.5, (700, "smooth"): 0.2}
    for options, said in (
        ({"noise": Noise()}, r"noise\.shared=false"),
        ({"views": 0}, "views is at least 1, got 0"),
        ({"massive": 1}, "a factor above 1"),
        ({"probes": str(tmp_path)}, "has no results.json: name the folder of a run"),
        ({"probes": probes(tmp_path / "sae", {}, task="sae")}, "has task=sae"),
        ({"probes": probes(tmp_path / "two", two)}, "has 2 of these 6 timesteps and blocks"),
        ({"block": "absent"}, "net has no block"),
    ):
        with pytest.raises(UserError, match=said):
            measured(tmp_path, **options)


class Still(Net):
    """A network without timesteps."""

    num_timesteps = None

    def features(self, images, timestep=None, blocks=None, noise=None):
        return dict.fromkeys(self.chosen(blocks), images)


def test_a_network_without_timesteps_has_no_noise(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tasks.test_doctor.Net", Still)
    module = measured(tmp_path, timestep=None, noise=Noise(), block=["smooth"])
    assert module.tables()["cells"][0]["noise_share"] is None
    assert module.advice().startswith("Look first at block=smooth, where")
