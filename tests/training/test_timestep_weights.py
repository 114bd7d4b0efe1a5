"""Timesteps drawn by their losses: the published rule restated, an unchanged mean, exact resume."""

from functools import partial

import numpy as np
import pytest
import torch

from diffdict.diffusion.edm import Levels
from diffdict.diffusion.schedules import make_schedule
from diffdict.errors import UserError
from diffdict.training.timestep_weights import LossSecondMoment, make_timestep_weights
from tests.tasks.test_diffusion import fit, model

STEPS = 6


class Published:
    """guided-diffusion's LossSecondMomentResampler, restated."""

    def __init__(self):
        self.history, self.counts = np.zeros((STEPS, 10)), np.zeros(STEPS, dtype=int)

    def update(self, t, losses):
        for step, loss in zip(t, losses, strict=True):
            if self.counts[step] == 10:
                self.history[step, :-1] = self.history[step, 1:].copy()
                self.history[step, -1] = loss
            else:
                self.history[step, self.counts[step]] = loss
                self.counts[step] += 1

    def probabilities(self):
        if not (self.counts == 10).all():
            return np.ones(STEPS) / STEPS
        weights = np.sqrt(np.mean(self.history**2, axis=-1))
        return weights / weights.sum() * (1 - 0.001) + 0.001 / STEPS


def test_probabilities_are_the_published_ones():
    ours, theirs, random = LossSecondMoment(STEPS), Published(), np.random.default_rng(0)
    seen = []
    for _ in range(60):
        t, losses = random.integers(0, STEPS, 4), random.random(4) * np.arange(1, 5)
        ours.update(torch.from_numpy(t), torch.from_numpy(losses))
        theirs.update(t, losses)
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities(), rtol=1e-12)
        seen.append(float(ours.probabilities[0]))
    assert seen[0] == 1 / STEPS != seen[-1]


def test_the_mean_loss_stays_what_it_was():
    weights, losses = LossSecondMoment(STEPS), torch.tensor([4.0, 1, 1, 2, 9, 0.5])
    for _ in range(10):
        weights.update(torch.arange(STEPS), losses)
    shares = (torch.arange(60_000) + 0.5) / 60_000
    t, counts = weights.draw(shares)
    assert torch.bincount(t).argmax() == 4
    assert float((losses[t] * counts).mean()) == pytest.approx(float(losses.mean()), rel=1e-3)
    again = weights.draw(shares.flip(0))
    assert torch.equal(again.t.flip(0), t)


def test_what_is_remembered_goes_on_where_it_stopped(tmp_path):
    weighted = partial(model, timesteps="loss_second_moment")
    whole, seen = fit(tmp_path / "whole", 5, weighted())
    fit(tmp_path / "broken", 3, weighted(), every=3)
    resumed, rest = fit(
        tmp_path / "on", 5, weighted(seed=1), resume=tmp_path / "broken/step=3.ckpt"
    )
    assert rest.losses == seen.losses[3:]
    assert int(whole.timestep_weights.counts.sum()) == 20
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    kept = tmp_path / "broken/step=3.ckpt"
    content = torch.load(kept, weights_only=True)
    weighted().check_checkpoint(kept, content)
    with pytest.raises(UserError, match=r"model\.timesteps=loss_second_moment, here it is uniform"):
        model().check_checkpoint(kept, content)


def test_what_cannot_be_weighed():
    process = make_schedule("linear", 100)
    assert make_timestep_weights("uniform", process) is None
    with pytest.raises(UserError, match="uniform or loss_second_moment, got 'loss'"):
        make_timestep_weights("loss", process)
    with pytest.raises(UserError, match=r"has noise levels: model\.timesteps=uniform"):
        make_timestep_weights("loss_second_moment", Levels())
