"""Precision and recall by balls, against the published evaluator's formula."""

import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.manifold import ball_radii, precision_recall
from tests.inputs import normal


def test_golden(golden):
    case = golden("rcdm_precision_recall")
    real, drawn = normal(11001, (300, 16)), normal(11002, (250, 16)) * 0.8 + 0.3
    got = precision_recall(real, drawn)
    case.check("radii_ref", ball_radii(real).float())
    case.check("radii_samples", ball_radii(drawn).float())
    case.check("precision", torch.tensor(got.precision, dtype=torch.float64))
    case.check("recall", torch.tensor(got.recall, dtype=torch.float64))


def test_ends():
    real = normal(1, (50, 4))
    assert precision_recall(real, real.flip(0)) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    with pytest.raises(UserError, match="at least 4 are needed"):
        precision_recall(real[:3], real)
