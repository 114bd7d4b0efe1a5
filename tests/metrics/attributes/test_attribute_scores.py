"""Attributes' figures: the original's, and what is unknown counts nowhere."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_average_precision

from diffdict.errors import UserError
from diffdict.metrics.attributes.attribute_scores import (
    AttributeScores,
    attribute_figures,
    attribute_losses,
    bootstrap_errors,
    measurable,
    pearson,
    say_left_out,
    squared_errors,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "diti_figures"
NAN = math.nan


@pytest.fixture(scope="module")
def golden():
    normal = lambda seed: torch.tensor(  # noqa: E731
        np.random.default_rng(seed).standard_normal((60, 4), dtype=np.float32)
    )
    scores = normal(9158)
    labels = (scores + 1.5 * normal(9159) > 0.7).double()
    facts = json.loads(GOLDEN.with_suffix(".json").read_text())
    tolerances = {one["name"]: one.get("tolerance_atol", 0) for one in facts["outputs"]}
    with np.load(GOLDEN.with_suffix(".npz")) as arrays:
        outputs = {name: torch.tensor(arrays[name]) for name in arrays.files}
    return scores, labels, scores.double() + normal(9160), outputs, tolerances


def test_figures_are_the_originals(golden):
    scores, labels, numbers, outputs, tolerances = golden
    assert torch.equal(labels, outputs["labels"].view(60, 4).double())
    binary = torch.ones(4, dtype=torch.bool)
    found = attribute_figures(scores[:, None], labels, binary)[0]
    tied = attribute_figures((4 * scores[:, None]).round() / 4, labels, binary)[0]
    r = pearson(scores[:, None], numbers)[0]
    unknown = labels.clone()
    unknown[::7, 1] = NAN
    loss = attribute_losses(scores, unknown, binary)
    mse = squared_errors(scores[:, None], numbers)[0, :, 0]
    for key, value in (
        ("average_precision", found),
        ("average_precision.with_ties", tied),
        ("pearson", r),
        ("bce.unknown_left_out", loss),
        ("regression.mse", mse),
    ):
        torch.testing.assert_close(
            value.flatten().double(),
            outputs[key].flatten().double(),
            atol=max(tolerances[key], 1e-6),
            rtol=0,
        )


def test_what_is_unknown_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(50, 3, 4, generator=generator)
    truth = torch.randn(50, 4, generator=generator).double()
    binary = torch.tensor([True, False, True, False])
    truth[:, binary] = (truth[:, binary] > 0).double()
    truth[torch.rand(50, 4, generator=generator) < 0.3] = NAN
    found = attribute_figures(scores, truth, binary)
    wild = torch.where(truth.isnan()[:, None], 1e3 * torch.randn(50, 3, 4), scores)
    assert torch.equal(found, attribute_figures(wild, truth, binary))
    torch.testing.assert_close(squared_errors(scores, truth), squared_errors(wild, truth))
    heads = scores.permute(1, 0, 2)
    loss = attribute_losses(heads, truth, binary)
    torch.testing.assert_close(loss, attribute_losses(wild.permute(1, 0, 2), truth, binary))
    for column in range(4):
        known = ~truth[:, column].isnan()
        alone = attribute_figures(
            scores[known][..., [column]], truth[known][:, [column]], binary[[column]]
        )
        torch.testing.assert_close(found[:, [column]], alone)


def test_precision_with_ties_and_unknowns_is_torchmetrics():
    generator = torch.Generator().manual_seed(1)
    scores = (4 * torch.rand(80, 1, 3, generator=generator)).round() / 4  # many ties
    truth = (torch.rand(80, 3, generator=generator) > 0.6).double()
    truth[torch.rand(80, 3, generator=generator) < 0.2] = NAN
    found = attribute_figures(scores, truth, torch.ones(3, dtype=torch.bool))[0]
    for column in range(3):
        known = ~truth[:, column].isnan()
        theirs = binary_average_precision(scores[known, 0, column], truth[known, column].long())
        assert float(found[column]) == pytest.approx(float(theirs), abs=1e-6)


def test_no_gradient_comes_from_what_is_unknown():
    scores = torch.zeros(2, 2, requires_grad=True)
    truth = torch.tensor([[1.0, NAN], [NAN, 2.0]])
    attribute_losses(scores, truth, torch.tensor([True, False])).backward()
    assert scores.grad.tolist() == [[-0.25, 0], [0, -2]]
    nothing = attribute_losses(scores, torch.full((2, 2), NAN), torch.tensor([True, False]))
    assert float(nothing.detach()) == 0


def test_all_binary_and_known_is_the_published_loss():
    scores, truth = torch.randn(8, 5), (torch.rand(8, 5) > 0.5).float()
    ours = attribute_losses(scores, truth, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(scores, truth))


def test_a_metric_in_parts_is_that_of_all():
    torch.manual_seed(0)
    scores, truth = torch.randn(40, 2, 3), torch.randn(40, 3).double()
    truth[:, 0] = (truth[:, 0] > 0).double()
    truth[3, 1] = NAN
    binary = torch.tensor([True, False, False])
    metric = AttributeScores(binary.tolist(), heads=2)
    for start in range(0, 40, 7):
        metric.update(scores[start : start + 7], truth[start : start + 7])
    found = metric.compute()
    each = attribute_figures(scores, truth, binary)
    torch.testing.assert_close(torch.tensor(found.each, dtype=each.dtype), each)
    assert found.mean == pytest.approx(each.mean(1).tolist())
    assert found.error == pytest.approx(bootstrap_errors(scores, truth, binary).tolist())
    assert found.pictures == [int(truth[:, 0].sum()), 39, 40]
    torch.testing.assert_close(metric.errors_of_numbers(), squared_errors(scores, truth))


def test_what_nothing_can_be_learned_of_is_left_out_and_said():
    truth = torch.tensor([[1.0, NAN, 2.0, 0.0], [1.0, NAN, 2.0, 1.0], [NAN, NAN, 3.0, 0.0]])
    counted = measurable(truth, torch.tensor([True, True, False, True]))
    assert counted.tolist() == [False, False, True, True]
    with pytest.warns(UserWarning, match="Left out.* of it alone, or none: a, b"):
        say_left_out(["a", "b", "c", "d"], counted, "fitted on")
    with pytest.raises(UserError, match=r"one value.*dataset\.train_pictures="):
        say_left_out(["a", "b"], counted[:2], "fitted on")
    metric = AttributeScores([True, True])
    metric.update(torch.randn(3, 1, 2), truth[:, :2])
    with pytest.raises(UserError, match="None of the attributes can be measured"):
        metric.compute()
