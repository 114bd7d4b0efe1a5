"""Screening in a test's own loop: one pass a latent, and what orders the effects."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.data.sample_indices import MeasuredIndices
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.errors import UserError
from diffdict.tasks.screening import Screening, agreement, candidates_of
from tests.tasks.test_causality import Halves
from tests.tasks.test_samples import network
from tests.tasks.test_steering import QUIET, exported  # noqa: F401 - a fixture


class TwoParts(ToyFaces):
    """Faces whose labels are two: what is background, and what is not."""

    def __init__(self, split):
        super().__init__(split, image_size=16, train_pictures=2)
        self.class_names, self.palette, self.num_classes = ["dark", "light"], [(0, 0, 0)] * 2, 2

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "mask": (torch.as_tensor(sample["mask"]) > 0).long()}


def screened(dictionary, **options):
    task = Screening(
        network(),
        partial(ddim, respacing="ddim2"),
        Objective(),
        str(dictionary),
        lambda net: Halves(["dark", "light"]),
        options.pop("pictures", TwoParts),
        **{"candidates": 4, "labelled_pictures": 2, "timestep": 250, **options},
    )
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **QUIET)
    trainer.test(task, MeasuredIndices(4, 2), verbose=False)
    return task, {key: float(value) for key, value in trainer.callback_metrics.items()}


def test_every_pair_has_its_effect_by_one_pass_and_by_its_chain(exported):  # noqa: F811
    task, figures = screened(exported[0], chains=True)
    rows = task.tables()["latents"]
    assert len(rows) == figures["test/pairs"] == 8
    assert all(0 <= row["one_pass"] <= 1 and 0 <= row["chain"] <= 1 for row in rows)
    assert [row["chain"] for row in rows] == sorted((row["chain"] for row in rows), reverse=True)
    for effect in ("one_pass", "chain"):
        assert f"test/spearman_iou_{effect}" in figures
    assert "test/spearman_one_pass_chain" in figures
    halves = task.tables()["halves"]
    assert len(halves) == 2 * 4 * 2
    for row in halves:
        own = [one for one in rows if one["class"] == row["class"]]
        (chosen,) = [one for one in own if one["latent"] == row["latent"]]
        assert row["effect"] == chosen[f"chain_half{1 - row['chosen_on']}"]
        if row["chosen_by"] == "one_pass":
            key = f"one_pass_half{row['chosen_on']}"
            assert chosen[key] == max(one[key] for one in own)
    assert "test/effect_by_one_pass" in figures
    still, _ = screened(exported[0], amount=1, concept="light")
    assert {row["class"] for row in still.rows} == {"light"}
    assert all(row["one_pass"] == 0 for row in still.rows)


def test_all_latents_that_live_are_screened_and_the_best_drawn_whole(exported):  # noqa: F811
    task, figures = screened(exported[0], candidates=None, density=0.05, chains=True)
    density, rows = task.predictors.density, task.tables()["latents"]
    alive = (density >= 0.05).nonzero()[:, 0].tolist()
    assert 0 < len(alive) < len(density)
    assert sorted(row["latent"] for row in rows) == sorted(alive * 2)
    for name in ("dark", "light"):
        own = [row for row in rows if row["class"] == name]
        drawn = {row["latent"] for row in own if row["chain"] == row["chain"]}
        best = {
            row["latent"]
            for key in ("iou", "excess", "average_precision", "one_pass")
            for row in sorted(own, key=lambda row, key=key: -row[key])[:2]
        }
        assert drawn == best
    assert "test/spearman_average_precision_chain" in figures


def test_candidates_come_from_both_orders_once():
    excess = torch.tensor([0.1, 0.5, 0.4, 0.0], dtype=torch.float64)
    iou = torch.tensor([0.2, 0.9, torch.nan, 0.3], dtype=torch.float64)
    assert candidates_of(excess, iou, 4) == [1, 2, 3, 0]
    assert candidates_of(torch.full_like(excess, torch.nan), iou, 4) == []


def test_agreement_is_over_all_and_within_classes():
    rows = [
        {"class": name, "iou": i, "effect": (i if name == "a" else -i)}
        for name in "ab"
        for i in range(3)
    ]
    over, within = agreement(rows, "iou", "effect")
    assert within == 0
    assert abs(over) < 0.5


def test_what_cannot_be_screened_is_refused(exported):  # noqa: F811
    for options, words in (
        ({"candidates": 1}, "candidates is at least 2"),
        ({"concept": "nose"}, "concept=nose is none of the labeller's classes: dark, light"),
        ({"timestep": 1000}, "between 0 and 999"),
        ({"pictures": partial(ToyFaces, image_size=16)}, "has others"),
    ):
        with pytest.raises(UserError, match=words):
            screened(exported[0], **options)
