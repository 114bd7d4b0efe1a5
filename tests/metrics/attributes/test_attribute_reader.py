"""Attributes read by ridge, and what samples keep of them."""

import torch

from diffdict.metrics.attributes import (
    AttributeReader,
    attribute_accuracy,
    fit_reader,
    kept_attributes,
)
from diffdict.metrics.attributes.attribute_scores import attribute_figures
from diffdict.metrics.attributes.ridge import AttributeSums

BINARY = torch.tensor([True, False, True])


def world(number, seed, noise=0.3):
    """Vectors that tell one binary attribute and one number; the third attribute is nowhere."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(number, 6, generator=generator)
    spread = noise * torch.randn(number, 2, generator=generator)
    has = (rows[:, 0] + spread[:, 0] > 0.4).float()
    size = 3 * rows[:, 1] - rows[:, 2] + spread[:, 1]
    nowhere = (torch.rand(number, generator=generator) > 0.5).float()
    return rows, torch.stack([has, size, nowhere], dim=1)


def reader(rows, truth, ridge=1e-3):
    sums = AttributeSums(rows.shape[1], truth.shape[1])
    for part in range(0, len(rows), 50):
        sums.update(rows[part : part + 50], truth[part : part + 50])
    return AttributeReader(sums.groups(), ridge)


def test_each_attribute_has_the_ridge_that_held_out_pictures_choose():
    rows, truth = world(120, 3)
    own = fit_reader((rows[:90], truth[:90]), (rows[90:], truth[90:]), BINARY, (1e-3, 1e2))
    tried = [reader(rows[:90], truth[:90], ridge).read(rows[90:]) for ridge in (1e-3, 1e2)]
    figures = attribute_figures(torch.stack(tried, dim=1), truth[90:], BINARY)
    every = [reader(rows, truth, ridge).read(rows) for ridge in (1e-3, 1e2)]
    for place in range(3):
        best = int(figures[1, place] >= figures[0, place])  # of equal ones the larger
        torch.testing.assert_close(own.read(rows)[:, place], every[best][:, place])


def test_readings_are_those_of_a_ridge_and_cut_midway():
    rows, truth = world(400, 0)
    own = reader(rows, truth)
    standard = (rows - rows.mean(0)) / rows.std(0, correction=0)
    x, y = standard.double(), truth.double()
    level = y.mean(0)
    gram = x.T @ x / len(x) + 1e-3 * torch.eye(6, dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (y - level) / len(x))
    torch.testing.assert_close(own.read(rows), level + x @ weight, atol=1e-5, rtol=1e-5)
    answers, has = own.read(rows), truth[:, 0] > 0.5
    midway = (answers[has, 0].mean() + answers[~has, 0].mean()) / 2
    torch.testing.assert_close(own.cutoffs[0], midway, atol=1e-5, rtol=1e-5)


def test_what_is_unknown_counts_nowhere():
    rows, truth = world(400, 0)
    truth[:200, 0] = torch.nan
    known = reader(rows[200:], truth[200:])
    torch.testing.assert_close(
        reader(rows, truth).read(rows)[:, 0], known.read(rows)[:, 0], atol=1e-5, rtol=1e-5
    )
    answers = torch.tensor([[0.9], [0.1], [0.8], [0.7]], dtype=torch.float64)
    said = torch.tensor([[1.0], [0.0], [torch.nan], [0.0]])
    cut, binary = torch.tensor([0.5], dtype=torch.float64), torch.tensor([True])
    assert attribute_accuracy(answers, said, binary, cut).tolist() == [0.75]
    assert attribute_accuracy(answers[:1], said[:1], binary, cut).isnan().all()


def kept(drawn, source, of_source, truth):
    rows, learned = world(600, 1)
    teller = reader(rows[:, :2], learned)  # the vector is silent of part of the number
    real, told = world(300, 2)
    assert truth is None or torch.equal(truth, told)
    own = reader(rows, learned)
    return kept_attributes(
        *(own, teller, BINARY),
        real=(real, real[:, :2]),
        truth=told,
        drawn=drawn,
        source=source,
        of_source=of_source,
    )


def test_copies_keep_all_that_is_read_and_noise_keeps_nothing():
    rows, truth = world(300, 2)
    source = torch.arange(40).repeat_interleave(4)
    copies = kept(rows[source], source, truth[:40], truth)
    assert copies.reader[1] > 0.98
    assert copies.vector[1] < copies.reader[1]
    assert copies.kept[1] > 0.97
    assert copies.kept[0] > 0.75
    torch.testing.assert_close(copies.variance, torch.ones(3).double())
    assert copies.chance[1] < 0.3
    assert abs(float(copies.chance[0]) - 0.5) < 0.12
    agreement, _ = copies.agreement(BINARY)
    assert agreement >= 0.5
    noise, _ = world(160, 9)
    lost = kept(noise, source, truth[:40], truth)
    assert abs(float(lost.kept[1])) < 0.25
    assert abs(float(lost.kept[0]) - 0.5) < 0.15
    assert float(lost.variance.abs().max()) < 0.3


def test_one_sample_a_source_says_nothing_of_variance():
    rows, truth = world(300, 2)
    few = kept(rows[:40], torch.arange(40), truth[:40], truth)
    assert few.variance.isnan().all()
    assert few.kept[1] > 0.97
    lonely = kept(rows[:1], torch.tensor([0]), truth[:1], truth)
    assert lonely.chance.isnan().all()
