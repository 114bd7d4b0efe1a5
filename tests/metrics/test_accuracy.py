"""Accuracy and average precision: their definitions, in any batches, whatever counts."""

import math

import numpy as np
import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.accuracy import Accuracy, AveragePrecision, average_precision


def by_threshold(scores, truth):
    """Average precision from the definition: the recall gained at each threshold × precision."""
    total, found, last = truth.sum(), 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = scores >= threshold
        recall = truth[above].sum() / total
        found += (recall - last) * truth[above].mean()
        last = recall
    return found


def drawn(pictures=60, heads=3, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(pictures, heads, classes, generator=generator).round(decimals=1)  # ties
    truth = torch.rand(pictures, classes, generator=generator) < 0.3
    return scores, truth


def test_average_precision_is_that_of_the_definition():
    scores, truth = drawn()
    found = average_precision(scores, truth)
    for head in range(3):
        for one in range(4):
            own = by_threshold(scores[:, head, one].numpy(), truth[:, one].numpy().astype(float))
            assert float(found[head, one]) == pytest.approx(own, abs=1e-12)


def test_average_precision_of_perfect_constant_and_absent_classes():
    truth = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]).bool()
    scores = torch.stack([truth[:, 0].float(), torch.zeros(4), torch.zeros(4)], 1)[:, None]
    best, constant, absent = average_precision(scores, truth)[0].tolist()
    assert (best, constant) == (1.0, 0.25)
    assert math.isnan(absent)


def test_batches_and_their_order_do_not_matter():
    scores, truth = drawn()
    parts = [slice(40, 60), slice(0, 7), slice(7, 40)]
    for kind in (Accuracy, AveragePrecision):
        labels = torch.nn.functional.one_hot(truth.long().argmax(1), 4).double()
        known = labels if kind is Accuracy else truth.double()
        whole, cut = kind(4, 3), kind(4, 3)
        whole.update(scores, known)
        for part in parts:
            cut.update(scores[part], known[part])
        ours, theirs = whole.compute(), cut.compute()
        np.testing.assert_allclose(ours.mean, theirs.mean)
        np.testing.assert_allclose(ours.each, theirs.each)
        assert ours.pictures == theirs.pictures


def test_accuracy_counts_known_pictures_alone():
    scores = torch.tensor([[[2.0, 1.0]], [[0.0, 1.0]], [[3.0, 1.0]], [[1.0, 0.0]]])
    truth = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 0]]).double()  # the last one is unknown
    metric = Accuracy(2)
    metric.update(scores, truth)
    found = metric.compute()
    assert (found.mean, found.pictures) == ([2 / 3], [1, 2])
    assert found.each == [[1.0, 0.5]]
    assert found.error[0] == pytest.approx(math.sqrt(2 / 9 / 3))
    assert found.chance == pytest.approx(2 / 3)


def test_the_mean_is_over_what_counts():
    scores, truth = drawn()
    metric = AveragePrecision(4, 3)
    metric.count_only(torch.tensor([True, False, True, False]))
    metric.update(scores, truth.double())
    found, each = metric.compute(), average_precision(scores, truth)
    assert found.mean == pytest.approx(each[:, [0, 2]].mean(1).tolist())
    assert found.chance == pytest.approx(float(truth[:, [0, 2]].double().mean()))


def test_the_bootstrap_sees_how_figures_spread_over_sets_of_pictures():
    spread = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.rand(200, 2, generator=generator) < 0.4
        scores = (truth + torch.randn(200, 2, generator=generator))[:, None]
        metric = AveragePrecision(2)
        metric.update(scores, truth.double())
        found = metric.compute()
        spread.append((found.mean[0], found.error[0]))
    means, errors = zip(*spread, strict=True)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.5)


def test_nothing_to_measure_is_said():
    metric = Accuracy(2)
    metric.update(torch.zeros(1, 1, 2), torch.zeros(1, 2))
    with pytest.raises(UserError, match="No picture with a known class"):
        metric.compute()
    absent = AveragePrecision(2)
    absent.update(torch.zeros(3, 1, 2), torch.zeros(3, 2))
    with pytest.raises(UserError, match=r"None of 3 pictures shows .* wider model\.prevalence"):
        absent.compute()
