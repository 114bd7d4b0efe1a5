"""Lifetimes in a test's own loop: fit, density and reliability, timestep by timestep."""

import pytest
import pytorch_lightning as pl
import torch

from diffdict.data.images import ImageDataModule
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.metrics.sparsity import Sparsity
from diffdict.tasks.lifetimes import Life, Lifetimes, TokenOverlap, gamma_of, life_of
from tests.tasks.test_samples import network
from tests.tasks.test_steering import QUIET, exported  # noqa: F401 - a fixture
from tests.tasks.test_substitution import exact


def faces(split):
    return ToyFaces(split, image_size=16, test_pictures=4)


def measured(dictionary, batch_size=2, **options):
    names = faces("test").class_names
    task = Lifetimes(network(), dictionary, draws=2, class_names=list(names), **options)
    data = ImageDataModule(faces, batch_size=batch_size, num_workers=0)
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **QUIET)
    trainer.test(task, data, verbose=False)
    return task, {key: float(value) for key, value in trainer.callback_metrics.items()}


def test_every_timestep_has_its_figures(tmp_path):
    task, figures = measured(exact(tmp_path / "exact"))
    rows = task.tables()["timesteps"]
    assert [row["timestep"] for row in rows] == [50, 300]
    for row in rows:
        assert row["fvu"] < 1e-6  # each token is given back
        assert 0 < row["reliability"] <= 1
        assert row["iou"] <= row["iou_own"] + 1e-9
    assert rows[0]["reliability"] > rows[1]["reliability"]  # less noise
    assert figures["test/t0050/fvu"] == pytest.approx(rows[0]["fvu"], abs=1e-7)
    latents = task.tables()["lifetimes"]
    assert len(latents) == task.sae.latents
    births = [row["birth"] for row in latents if row["birth"] is not None]
    assert births == sorted(births)
    assert {"latent_t0050", "iou_t0300"} <= task.tables()["class_latents"][0].keys()


def test_batches_do_not_matter_and_foreign_timesteps_are_asked_too(exported):  # noqa: F811
    one, _ = measured(str(exported[0]), 1, timestep=[10, 800])
    all_, _ = measured(str(exported[0]), 4, timestep=[10, 800])
    assert one.timesteps == [10, 800]
    for a, b in zip(one.rows, all_.rows, strict=True):
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-3)
        assert a["reliability"] == pytest.approx(b["reliability"], rel=1e-2)


def test_a_life_is_from_the_first_to_the_last_timestep():
    density = torch.tensor([0.2, 0.0, 0.3, 0.05], dtype=torch.float64)
    assert life_of(density, [400, 50, 250, 800], 0.1) == Life(250, 250, 400)
    assert life_of(density, [400, 50, 250, 800], 0.5) == Life(None, None, None)


def test_overlap_is_intersection_over_union_of_tokens():
    metric = TokenOverlap(3, 2)
    active = torch.tensor([[1.0, 0], [1, 1], [0, 1], [0, 0]])
    labels = torch.tensor([0, 0, 1, -1])
    token, latent = active.nonzero(as_tuple=True)
    starts = torch.tensor([0, 1, 3, 4, 4])
    metric.update(starts, latent, active[token, latent], labels)
    wanted = torch.tensor([[1.0, 1 / 3], [0, 1 / 2]], dtype=torch.float64)
    assert torch.allclose(metric.iou()[:2], wanted)
    assert metric.iou()[2].isnan().all()


def test_gamma_is_the_mean_over_the_deviation():
    tokens = 3 + torch.randn(500, 4)
    fit = Sparsity(4, 2, mean=torch.ones(4))
    empty = torch.zeros(0)
    fit.update(tokens, tokens, empty.long(), empty)
    deviation = (tokens - tokens.mean(0)).square().sum(1).mean().sqrt()
    assert gamma_of(fit) == pytest.approx(float(tokens.mean(0).norm() / deviation), rel=1e-5)


def test_what_has_no_meaning_is_refused(exported):  # noqa: F811
    for options, words in (
        ({"draws": 1}, "draws is at least 2"),
        ({"alive": 0.0}, "model.alive"),
        ({"timestep": [50, 1000]}, "between 0 and 999, got 1000"),
    ):
        with pytest.raises(UserError, match=words):
            Lifetimes(network(), str(exported[0]), **options)
