"""Latents chosen on one split and reported on another; one to one; nulls that know nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from diffdict.errors import UserError
from diffdict.metrics.concepts.assignment import (
    NONE,
    best_class,
    choice_figures,
    choose,
    exchanged,
    match,
    random_directions,
    report,
)
from diffdict.metrics.concepts.matching import match_rows
from diffdict.metrics.concepts.overlap import Concepts, Counts
from diffdict.sae.relu import Relu

NAMES = ("skin", "hair", "eye")


def counts_of(seed=0, latents=8, thresholds=3, absent=(), dead=()):
    """Counts that could be: nested areas at rising thresholds, classes that share them."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(50, 200, (3,), generator=generator)
    pixels[list(absent)] = 0
    share = torch.rand(thresholds, 3, latents, generator=generator).sort(0, descending=True).values
    both = (share * pixels[:, None]).long()
    both[:, :, list(dead)] = 0
    return Counts(NAMES, both, both.sum(1), pixels, 0)


@pytest.mark.parametrize("by", ["iou", "iwm", "precision", "iou_sum"])
@pytest.mark.parametrize("threshold", [None, 1])
def test_the_choice_is_the_best_pair(by, threshold):
    train = counts_of()
    choice = choose(train, by, threshold)
    every = torch.stack([getattr(train.figures(i), by) for i in range(3)])
    some = every if threshold is None else every[threshold : threshold + 1]
    assert torch.equal(getattr(choice_figures(choice, train), by), some.amax((0, 2)))


def test_the_runner_up_comes_next():
    train = counts_of()
    second = choose(train, place=1)
    score = train.best()[0]
    assert torch.equal(choice_figures(second, train).iou, score.topk(2).values[:, 1])
    assert (second.latents != choose(train).latents).all()
    with pytest.raises(UserError, match="8 latents, so none comes in place 8"):
        choose(train, place=8)


def test_the_report_holds_both_splits():
    train, test = counts_of(0), counts_of(1)
    choice = choose(train)
    table = report(choice, train, test)
    assert [row.name for row in table.rows] == list(NAMES)
    for label, row in enumerate(table.rows):
        figures = test.figures(row.threshold)
        assert row.test.iou == figures.iou[label, row.latent]
        assert row.test.precision == figures.precision[label, row.latent]
        assert row.train.iwm == train.figures(row.threshold).iwm[label, row.latent]
    assert table.mean_test.iou == table.test.iou.mean()
    assert table.mean_test.iou < choose_and_look(test)  # what choosing on the test would claim


def choose_and_look(counts):
    return choice_figures(choose(counts), counts).iou.mean()


def test_absent_classes_are_named_and_in_no_mean():
    train, test = counts_of(0, absent=[0]), counts_of(1, absent=[2])
    table = report(choose(train), train, test)
    assert (table.absent_train, table.absent_test) == (["skin"], ["eye"])
    assert table.choice.latents[0] == NONE
    assert table.train.iou[0].isnan()
    assert table.test.iou[0] == 0
    assert table.test.iou[2].isnan()
    assert table.mean_test.iou == table.test.iou[1]
    assert table.mean_train.iou == table.train.iou[1]


def test_no_live_latents_choose_nothing_and_score_nothing():
    train, test = counts_of(0, dead=range(8)), counts_of(1, dead=range(8))
    for choice in (choose(train), match(train)):
        assert choice.latents.tolist() == [NONE] * 3
        table = report(choice, train, test)
        assert [float(each) for each in table.mean_test] == [0] * 4
        assert [row.latent for row in table.rows] == [NONE] * 3
    best = best_class(train)
    assert best.classes.tolist() == [NONE] * 8
    assert best.score.tolist() == [0] * 8


def test_each_latent_has_its_class():
    counts = counts_of(dead=[4], absent=[1])
    best = best_class(counts)
    score, _ = counts.best()
    assert best.classes[4] == NONE
    for latent in (0, 1, 2, 3, 5, 6, 7):
        column = score[[0, 2], latent]
        assert best.classes[latent] == (0, 2)[int(column.argmax())]
        assert best.score[latent] == column.max()


def test_matched_classes_share_no_latent():
    train = counts_of(3)
    train.intersections[:, :, 2] = train.pixels  # of all classes the best
    train = train._replace(active=train.intersections.sum(1))
    assert (choose(train, "iwm").latents == 2).all()
    choice = match(train, "iwm")
    assert len(set(choice.latents.tolist())) == 3
    score = train.best("iwm")[0].numpy()
    rows, columns = linear_sum_assignment(score, maximize=True)
    assert choice_figures(choice, train).iwm.sum() == pytest.approx(score[rows, columns].sum())


def test_more_classes_than_latents_are_matched():
    choice = match(counts_of(latents=2))
    assert sorted(choice.latents.tolist())[1:] == [0, 1]
    assert (choice.latents == NONE).sum() == 1


def test_splits_of_different_classes_are_refused():
    other = counts_of()._replace(class_names=("a", "b", "c"))
    with pytest.raises(UserError, match=r"different classes: \['skin'.*\['a'"):
        report(choose(counts_of()), counts_of(), other)
    with pytest.raises(UserError, match="not by 'f1'"):
        choose(counts_of(), "f1")


# ---------------------------------------------------------------- one to one


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 3))
def test_matching_is_that_of_another_library(rows, columns, seed, digits):
    scores = np.random.default_rng(seed).normal(size=(rows, columns)).round(digits)  # many ties
    own = match_rows(scores)
    kept = own >= 0
    assert kept.sum() == min(rows, columns) == len(set(own[kept]))
    best = scores[linear_sum_assignment(scores, maximize=True)].sum()
    assert scores[kept.nonzero()[0], own[kept]].sum() == pytest.approx(best)


# ---------------------------------------------------------------- nulls


@given(st.integers(2, 50), st.integers(0, 2**40))
def test_nobody_keeps_a_mask(pictures, seed):
    order = exchanged(pictures, seed)
    assert sorted(order.tolist()) == list(range(pictures))
    assert (order != torch.arange(pictures)).all()
    assert torch.equal(order, exchanged(pictures, seed))


def test_a_lone_picture_has_nobody_to_exchange_with():
    with pytest.raises(UserError, match="at least 2"):
        exchanged(1)


def test_random_directions_have_length_one_and_a_seed():
    rows = random_directions(50, 8, seed=3)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(50))
    assert torch.equal(rows, random_directions(50, 8, seed=3))
    assert not torch.equal(rows, random_directions(50, 8, seed=4))
    start = Relu(8, latents=50, seed=3).dictionary  # must not be its own null
    assert (rows @ start.T).abs().max() < 0.999


def test_exchanged_masks_take_the_alignment_away():
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(3, (12, 4, 4), generator=generator)
    masks = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
    maps = torch.full((12, 5, 4, 4), -1.0)
    maps[:, :3] = torch.stack([torch.where(mask == c, 1.0, -1.0) for c in range(3)], 1)
    scores = []
    for labels in (masks, masks[exchanged(12)]):
        splits = []
        for part in (slice(6), slice(6, 12)):
            metric = Concepts(NAMES, torch.zeros(5, 1))
            metric.update(maps[part], labels[part])
            splits.append(metric.compute())
        scores.append(float(report(choose(splits[0]), *splits).mean_test.iou))
    assert scores[0] > 0.5 > 2 * scores[1]
