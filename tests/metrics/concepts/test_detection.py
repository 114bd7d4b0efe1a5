"""Detection by scores: areas against counting pairs, the null of other scores."""

import pytest
import torch

from diffdict.metrics.concepts.detection import detect, detection_auc


def test_the_area_is_the_share_of_pairs_in_order():
    scores = torch.tensor([[3.0], [1.0], [2.0], [1.0]])
    active = torch.tensor([True, True, False, False])
    pairs = [1, 1, 0, 0.5]  # 3 > 2, 3 > 1, 1 < 2, 1 = 1
    assert detection_auc(scores, active).tolist() == [sum(pairs) / 4]


def test_every_score_has_its_own():
    active = torch.tensor([True] * 3 + [False] * 3)
    right = active.float()
    areas = detection_auc(torch.stack([right, -right, torch.zeros(6)], 1), active)
    assert areas.tolist() == [1, 0, 0.5]


def test_scores_of_other_things_are_the_null():
    active = torch.tensor([True] * 3 + [False] * 3)
    right = active.float()
    scores = torch.stack([right, -right, torch.zeros(6), right], 1)
    assert detect(scores, active, 0, [1, 2]) == (1, 0.25, pytest.approx(1 / 3))
    assert detect(scores, active, 0, [1, 3]) == (1, 0.5, pytest.approx(2 / 3))
    assert detect(scores, active, 0, []) == (1, None, None)
