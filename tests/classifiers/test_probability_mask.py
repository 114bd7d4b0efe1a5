"""The mask of a direction against the published code, and what it promises."""

import re

import pytest
import torch

from diffdict.classifiers.probability_mask import ProbabilityMask
from diffdict.errors import UserError
from tests.inputs import normal, unit

N = 400


def filled(**settings):
    mask = ProbabilityMask(48, 16, N, **settings)
    with torch.no_grad():
        mask.scores.copy_(unit(9153, (48,)))
    return mask


def test_published_figures(golden):
    case, mask = golden("diti_figures"), filled()
    rows = [0, 1, 40, 41, 80, 159, 160, 161, N - 1]
    case.check("promask.temperature", torch.tensor([mask.temperature(i) for i in rows]).double())
    case.check("promask.kept", torch.tensor([mask.kept(i) for i in rows]).double())
    uniforms = unit(9154, (48,)), unit(9155, (48,))
    case.check("promask.masked", mask(normal(9156, (2, 48)), 80, uniforms))
    mask.project(80)
    case.check("promask.scores_after", mask.scores)
    case.check("promask.sum_after", mask.scores.sum()[None])


def test_a_projection_allows_no_more_and_takes_nothing_needlessly():
    mask = filled()
    before = mask.scores.detach().clone()
    mask.project(0)
    assert torch.equal(mask.scores, before)
    mask.project(N - 1)
    assert mask.scores.sum() <= 16 + 1e-2
    assert (mask.scores <= before).all()
    assert torch.equal(mask.scores.argsort()[-16:], before.argsort()[-16:])


def test_the_likeliest_are_as_many_as_wanted():
    mask = filled()
    assert mask.likeliest().sum() == 16
    assert mask.scores[mask.likeliest()].min() >= mask.scores[~mask.likeliest()].max()


def test_a_fresh_mask_lets_all_through_and_learns():
    torch.manual_seed(0)
    mask, codes = ProbabilityMask(48, 16, N), normal(1, (2, 48))
    torch.testing.assert_close(mask(codes, 0), codes)
    mask = filled()
    mask(codes, 0).sum().backward()
    assert mask.scores.grad.isfinite().all()
    assert mask.scores.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wanted": 0}, "A mask keeps 1 to 8 entries, got 0"),
        ({"wanted": 9}, "A mask keeps 1 to 8 entries, got 9"),
        ({"start": 0.5}, "0 ≤ start < end ≤ 1 of at least one iteration, got 0.5, 0.4 and 10"),
    ],
)
def test_masks_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        ProbabilityMask(**({"dims": 8, "wanted": 2, "iterations": 10} | settings))
