"""Segmentation against the original's loop, torchmetrics' Jaccard and torch's Categorical."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical
from torchmetrics.classification import MulticlassJaccardIndex

from diffdict.errors import UserError
from diffdict.metrics.segmentation import Segmentation, divergence, top_tenth


def counted(predicted, truth, num_classes, ignore_label=None):
    metric = Segmentation(num_classes, ignore_label)
    metric.update(predicted, truth)
    return metric.compute()


def draw(seed, high):
    return np.random.default_rng(seed).integers(0, high, size=(24, 24))


def golden_maps():
    """The five pairs of the golden dseg_classifier."""
    predicted = np.stack([draw(3201 + i, 27) for i in range(5)])
    other = np.stack([draw(3301 + i, 28) for i in range(5)])
    keep = np.stack([draw(3401 + i, 2) for i in range(5)])
    truth = np.where(keep == 1, predicted, other)
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def test_the_published_protocol_is_the_originals(golden):
    predicted, truth = golden_maps()
    found = [counted(predicted, truth, 29, ignore).miou() for ignore in (0, 255)]
    golden("dseg_classifier").check("iou.mean", np.array(found))


def original(predicted, truth, num_classes, ignore_label):
    """The published loop, class by class over the whole set."""
    ious = []
    for label in range(num_classes):
        if label == ignore_label:
            ious.append(float("nan"))
            continue
        ours, theirs = predicted == label, truth == label
        ious.append(float((ours & theirs).sum() / (1e-8 + (ours | theirs).sum())))
    return ious


maps = st.integers(0, 10**6)
ignore = st.sampled_from([None, 0, 2, 255])


def drawn(seed, ignore_label, classes=5):
    """Pictures in which classes may be absent and some pixels are ignored."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randint(1, classes + 1, (), generator=generator)
    predicted = torch.randint(int(seen), (3, 4, 6), generator=generator)
    truth = torch.randint(classes - 1, (3, 4, 6), generator=generator)
    if ignore_label is not None:
        truth[torch.rand(truth.shape, generator=generator) < 0.3] = ignore_label
    truth[0, 0, 0] = 1  # something is labelled, whatever is ignored
    return predicted, truth


@given(seed=maps, ignore_label=ignore)
def test_both_protocols_against_others(seed, ignore_label):
    predicted, truth = drawn(seed, ignore_label)
    found = counted(predicted, truth, 5, ignore_label)
    np.testing.assert_allclose(found.iou(), original(predicted, truth, 5, ignore_label))
    jaccard = MulticlassJaccardIndex(5, average="macro", ignore_index=ignore_label)
    assert found.miou("standard") == pytest.approx(float(jaccard(predicted, truth)), abs=1e-6)
    labelled = truth != ignore_label if ignore_label is not None else truth >= 0
    right = (predicted == truth)[labelled]
    assert found.accuracy == pytest.approx(float(right.float().mean()))


def test_the_protocols_differ_where_they_should():
    truth = torch.tensor([[0, 0, 1, 255]])
    predicted = torch.tensor([[0, 0, 1, 1]])
    found = counted(predicted, truth, 3, 255)
    assert found.iou("published").tolist() == pytest.approx([1, 0.5, 0])
    assert found.iou("standard").tolist() == pytest.approx([1, 1, torch.nan], nan_ok=True)
    assert (found.miou("published"), found.miou("standard")) == pytest.approx((0.5, 1))
    assert found.recall.tolist() == pytest.approx([1, 1, torch.nan], nan_ok=True)
    assert found.precision.tolist() == pytest.approx([1, 1, torch.nan], nan_ok=True)


def test_the_mean_is_over_the_set_not_over_pictures():
    truth, predicted = torch.zeros(2, 1, 8).long(), torch.zeros(2, 1, 8).long()
    truth[0, 0, :4] = predicted[1, 0, :1] = 1
    whole, metric = counted(predicted, truth, 2), Segmentation(2)
    for one, other in zip(predicted, truth, strict=True):  # one picture an update
        metric.update(one, other)
    assert torch.equal(metric.compute().pixels, whole.pixels)
    assert whole.iou().tolist() == pytest.approx([11 / 16, 0])


@pytest.mark.parametrize(
    ("predicted", "truth", "ignore_label", "said"),
    [
        (0, 3, 255, r"Masks hold labels \[3\]; classes are 0\.\.2, 255 is ignored"),
        (0, 255, None, r"Masks hold labels \[255\].*nothing is ignored"),
        (3, 0, 3, r"Predictions hold labels \[3\]"),
    ],
)
def test_labels_of_no_class_are_refused(predicted, truth, ignore_label, said):
    with pytest.raises(UserError, match=said):
        counted(torch.full((2, 2), predicted), torch.full((2, 2), truth), 3, ignore_label)


def test_what_is_ignored_everywhere_cannot_be_measured():
    with pytest.raises(UserError, match="hold nothing but the ignored label"):
        counted(torch.zeros(2, 2).long(), torch.full((2, 2), 255), 3, 255)
    with pytest.raises(UserError, match=r"model\.protocol is published or standard, got 'own'"):
        counted(torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), 3).iou("own")


@given(seed=maps, members=st.integers(1, 5), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_divergence_is_categoricals(seed, members, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(members, 4, 3, 6, generator=generator)
    mean = Categorical(logits.softmax(-1).mean(0)).entropy()
    expected = mean - Categorical(logits=logits).entropy().mean(0)
    torch.testing.assert_close(divergence(logits), expected, atol=1e-5, rtol=0)


def test_a_picture_is_as_uncertain_as_its_most_uncertain_tenth():
    assert float(top_tenth(torch.arange(29.0))) == pytest.approx(27.5)
    assert float(top_tenth(torch.tensor([1.0, 3.0]))) == 3
