"""Average precision, ROC-AUC, Purity@k: against another library, in any split."""

from functools import partial

import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st

from diffdict.errors import UserError
from diffdict.metrics.concepts.activations import Activations
from diffdict.metrics.concepts.overlap import Concepts
from diffdict.metrics.concepts.ranking import (
    TopLabels,
    average_precision,
    rank,
    roc_auc,
    token_labels,
)
from tests.processes import in_processes

NAMES = ("skin", "hair", "hat")
LATENTS, K = 5, 4


def made(seed=0, number=4, grid=(6, 7)):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 2, (number, *grid), generator=generator)
    maps = torch.randn(number, LATENTS, *grid, generator=generator)
    maps[:, 0] += labels
    return maps, labels


def counted(maps, labels, thresholds, ranked=None):
    metric = Concepts(NAMES, thresholds, ranked=ranked, ignore_label=-1)
    metric.update(maps, labels)
    return metric.compute()


def codes(maps, ranked=None):
    tokens = maps.permute(0, 2, 3, 1).flatten(0, 2)
    if ranked:
        tokens = tokens.where(tokens >= tokens.topk(ranked).values[:, -1:], -1)
    return tokens.relu()


@pytest.mark.parametrize("ranked", [None, 2])
def test_with_every_code_a_threshold_the_curves_are_exact(ranked):
    maps, labels = made()
    values = codes(maps).flatten().unique()
    counts = counted(maps, labels, values.expand(LATENTS, -1), ranked)
    precision, area = average_precision(counts), roc_auc(counts)
    kept = labels.flatten() >= 0
    for label in (0, 1):
        target = (labels.flatten()[kept] == label).long()
        for latent in range(LATENTS):
            code = codes(maps, ranked)[kept, latent] / 10  # torchmetrics wants probabilities
            theirs = torchmetrics.functional.average_precision(code, target, "binary")
            assert precision[label, latent].item() == pytest.approx(theirs.item(), abs=1e-6)
            theirs = torchmetrics.functional.auroc(code, target, "binary")
            assert area[label, latent].item() == pytest.approx(theirs.item(), abs=1e-6)
    assert precision[2].isnan().all()
    assert area[2].isnan().all()


def test_few_thresholds_are_the_other_librarys_bins():
    maps, labels = made()
    thresholds = torch.tensor([0.0, 0.2, 0.7, 1.5])
    counts = counted(maps, labels, thresholds.expand(LATENTS, -1))
    kept = labels.flatten() >= 0
    target = (labels.flatten()[kept] == 1).long()
    for latent in range(LATENTS):
        # theirs are ≥: a threshold a little higher is ours; below the lowest all are found
        bins = torch.cat([torch.zeros(1), (thresholds + 1e-6) / 10])
        theirs = torchmetrics.functional.average_precision(
            codes(maps)[kept, latent] / 10, target, "binary", thresholds=bins
        )
        assert average_precision(counts)[1, latent].item() == pytest.approx(theirs.item(), abs=1e-6)


def test_quantile_thresholds_come_close():
    maps, labels = made(number=30, grid=(16, 16))
    activations = Activations(torch.zeros(LATENTS))
    activations.update(maps)
    errors = []
    every = counted(maps, labels, codes(maps).flatten().unique()[::7].expand(LATENTS, -1))
    for number in (8, 32):
        shares = (torch.arange(number) / number).tolist()
        counts = counted(maps, labels, activations.compute().quantiles(shares))
        difference = average_precision(counts) - average_precision(every)
        errors.append(difference[:2].abs().max())
    assert errors[0] < 0.02
    assert errors[1] < 0.01


def test_dead_latents_rank_at_random():
    maps, labels = made()
    counts = counted(maps - 100, labels, torch.zeros(LATENTS, 3))
    share = counts.pixels / counts.pixels.sum()
    expected = share[:2, None].double().expand(-1, LATENTS)
    torch.testing.assert_close(average_precision(counts)[:2], expected)
    assert (roc_auc(counts)[:2] == 0.5).all()


# ---------------------------------------------------------------- labels of tokens


def test_a_token_has_the_label_of_most_of_its_pixels():
    mask = torch.zeros(1, 4, 6, dtype=torch.uint8)
    mask[0, :2, :3] = torch.tensor([[1, 1, 0], [1, 1, 2]])
    mask[0, 2:, :3] = 9
    mask[0, 2, 3:] = 2  # 3 of 6: as many zeros, and the smaller wins
    labels = token_labels(mask, (2, 2), NAMES, ignore_label=9)
    assert labels.tolist() == [[[1, 0], [-1, 0]]]


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.integers(1, 4))
def test_constant_cells_keep_their_labels(h, w, down, across):
    labels = torch.randint(3, (2, h, w), generator=torch.Generator().manual_seed(0))
    mask = labels.repeat_interleave(down, 1).repeat_interleave(across, 2)
    assert torch.equal(token_labels(mask, (h, w), NAMES), labels)


def test_tokens_finer_than_masks_are_refused():
    with pytest.raises(UserError, match=r"Tokens \[8, 2\] are finer than masks \[4, 4\]"):
        token_labels(torch.zeros(1, 4, 4, dtype=torch.uint8), (8, 2), NAMES)


# ---------------------------------------------------------------- purity


@pytest.mark.parametrize("ranked", [None, 2])
def test_purity_is_the_share_of_the_class_among_the_most_active(ranked):
    maps, labels = made()
    metric = TopLabels(NAMES, torch.zeros(LATENTS), k=K, ranked=ranked)
    for some in torch.arange(4).split(3):
        metric.update(maps[some], labels[some])
    purity = metric.compute()
    kept = labels.flatten() >= 0
    for latent in range(LATENTS):
        code = codes(maps, ranked)[kept, latent]
        first = labels.flatten()[kept][code.topk(K).indices]
        assert purity[:, latent].tolist() == [(first == c).sum() / K for c in range(3)]


def test_tokens_without_a_code_are_no_evidence():
    maps, labels = -torch.ones(1, LATENTS, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    maps[0, 1, 0, 0] = 1
    metric = TopLabels(NAMES, torch.zeros(LATENTS), k=K)
    metric.update(maps, labels)
    assert metric.compute()[0].tolist() == [0, 1 / K, 0, 0, 0]


@given(st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_the_most_active_of_shards_are_those_of_the_whole(owner):
    maps, labels = made()
    whole, *ranks = (TopLabels(NAMES, torch.zeros(LATENTS), k=K) for _ in range(3))
    whole.update(maps, labels)
    for i, own in enumerate(owner):
        ranks[own].update(maps[i : i + 1], labels[i : i + 1])
    if 0 < sum(owner) < 4:
        ranks[0].merge_state(ranks[1])
        assert torch.equal(ranks[0].keys, whole.keys)


def one_rank(number, folder):
    """One process: its own pictures; the purity of all."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    maps, labels = (each[:3] if number == 0 else each[3:] for each in made())
    metric = TopLabels(NAMES, torch.zeros(LATENTS), k=K)
    metric.update(maps, labels)
    answer = metric.compute().nan_to_num().tolist()
    torch.distributed.destroy_process_group()
    return answer


@pytest.mark.faults
def test_two_processes_find_the_same_tokens(tmp_path):
    answers = in_processes(*(partial(one_rank, i, tmp_path) for i in range(2)))
    metric = TopLabels(NAMES, torch.zeros(LATENTS), k=K)
    metric.update(*made())
    assert answers == [metric.compute().tolist()] * 2


def test_the_table_for_comparison():
    train, test = made(0), made(1)
    thresholds = torch.linspace(0, 3, 40).expand(LATENTS, -1)
    metric = TopLabels(NAMES, torch.zeros(LATENTS), k=K)
    metric.update(*test)
    purity = metric.compute()
    before, after = counted(*train, thresholds), counted(*test, thresholds)
    ranking = rank(before, after, purity)
    assert ranking.latents[1] == 0  # made to follow the labels
    assert ranking.test[1] == average_precision(after)[1, 0]
    assert ranking.purity[1] == purity[1, 0]
    assert ranking.test[2].isnan()
    assert ranking.mean == pytest.approx(ranking.test[:2].mean().item())
    assert ranking.mean_purity == pytest.approx(ranking.purity[:2].mean().item())
    assert ranking.coverage(0.0) == 1
    assert ranking.coverage(float(ranking.test[:2].max())) == 0.5
    with pytest.raises(UserError, match=r"Labels are \[4, 6, 6\]"):
        metric.update(lambda part: train[0][:, part], train[1][:, :, 1:])
