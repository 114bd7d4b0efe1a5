"""Alignment and uniformity: the original's numbers, and what a rotation leaves as it is."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffdict.errors import UserError
from diffdict.metrics import geometry
from diffdict.metrics.geometry import alignment, uniformity


def normal(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def views():
    x = normal(7301, (256, 64))
    return x, x + 0.3 * normal(7302, (256, 64))


def test_every_output_of_the_case(golden):
    case = golden("ddae_metrics")
    x, y = views()
    first, second = F.normalize(x), F.normalize(y)
    answers = {
        "raw.alignment": [alignment(x, y, alpha) for alpha in (2, 1)],
        "raw.uniformity": [uniformity(0.2 * x, t) for t in (2, 1)],
        "normed.alignment": [alignment(first, second, alpha) for alpha in (2, 1)],
        "normed.uniformity": [uniformity(first, t) for t in (2, 1)],
        "normed.pair_uniform_mean": [(uniformity(first) + uniformity(second)) / 2],
    }
    assert set(answers) == {output["name"] for output in case.facts["outputs"]}
    for name, answer in answers.items():
        case.check(name, torch.stack(answer))


def test_a_rotation_changes_nothing():
    x, y = (F.normalize(rows.double()) for rows in views())
    turn = torch.linalg.qr(normal(3, (64, 64)).double()).Q
    torch.testing.assert_close(alignment(x @ turn, y @ turn), alignment(x, y))
    torch.testing.assert_close(uniformity(x @ turn), uniformity(x))


def test_views_that_agree_and_rows_that_coincide():
    x = F.normalize(views()[0])
    assert alignment(x, x) == 0
    assert abs(uniformity(x[:1].expand(5, -1))) < 1e-12
    two = torch.tensor([[1.0, 0], [-1.0, 0]])
    assert math.isclose(uniformity(two), -2 * 4)


def test_pairs_are_counted_once_however_rows_are_cut(monkeypatch):
    x = views()[0][:67]
    whole = uniformity(x)
    expected = (-2 * torch.pdist(x.double()) ** 2).logsumexp(0) - math.log(67 * 66 / 2)
    torch.testing.assert_close(whole, expected)
    for chunk in (1, 16, 66, 67):
        monkeypatch.setattr(geometry, "CHUNK", chunk)
        torch.testing.assert_close(uniformity(x), whole)


def test_what_has_no_pairs_is_refused():
    with pytest.raises(UserError, match="2 rows or more, got 1"):
        uniformity(torch.ones(1, 3))
    with pytest.raises(UserError, match="two views of the same rows"):
        alignment(torch.ones(0, 3), torch.ones(0, 3))
