"""Features chosen one after the other: each the best beside those taken, read by least squares."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from diffdict.metrics.features.forward_selection import select_forward
from diffdict.metrics.probes import ProbeSums

SIZES = [1, 2, 4, 8]


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 10, generator=generator, dtype=torch.float64)
    features[:, 5] = 2 * features[:, 3] + 1  # says what the third says
    features[:, 8] = 4.0  # says nothing
    told = features[:, 3] + features[:, 7] + 0.3 * torch.randn(400, generator=generator) > 0
    return features, F.one_hot(told.long() + (features[:, 1] > 1.5).long(), 3).double()


def selected(features, truth, sizes=SIZES):
    sums = ProbeSums(features.shape[1], truth.shape[1])
    for some in range(0, len(features), 100):
        sums.add_rows(features[some : some + 100], truth[some : some + 100])
    return select_forward(sums.compute(), sizes)


def least_squares(features, truth):
    columns = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    return columns @ torch.linalg.lstsq(columns, truth, driver="gelsd").solution


def test_scores_are_those_of_least_squares(rows):
    features, truth = rows
    few = selected(features, truth)
    scores = few.scores(features.float())
    for place, size in enumerate(SIZES):
        for label in range(3):
            columns = features[:, few.features[label, :size]]
            expected = least_squares(columns, truth[:, label : label + 1])[:, 0]
            assert torch.allclose(scores[place, label].double(), expected, atol=1e-5)


def test_each_step_takes_the_feature_that_helps_most(rows):
    features, truth = rows
    few = selected(features, truth)

    def error(columns, label):
        goal = truth[:, label : label + 1]
        return float((least_squares(features[:, columns], goal) - goal).square().sum())

    for label, size in itertools.product(range(3), range(3)):
        taken = few.features[label, :size].tolist()
        errors = {one: error([*taken, one], label) for one in range(10)}
        assert errors[int(few.features[label, size])] <= min(errors.values()) + 1e-6


def test_what_says_nothing_new_weighs_nothing(rows):
    features, truth = rows
    few = selected(features, truth, [10])
    for label in range(3):
        used = few.features[label][few.weight[0, label] != 0].tolist()
        assert len(used) == len(set(used)) == 8
        assert 8 not in used
        assert not {3, 5} <= set(used)


def test_a_class_that_was_not_seen_scores_nothing(rows):
    features, truth = rows
    few = selected(features, F.pad(truth, (0, 1)))
    assert not few.scores(features.float())[:, 3].any()
