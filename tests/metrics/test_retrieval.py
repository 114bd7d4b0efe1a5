"""Exact search: another library's neighbours, and the laws of ranks."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from diffdict.errors import UserError
from diffdict.metrics import retrieval
from diffdict.metrics.retrieval import nearest, rank_figures, ranks
from tests.inputs import normal

VECTORS, QUERIES = normal(1, (300, 12)), normal(2, (40, 12))


def test_neighbours_are_scipys():
    _, wanted = cKDTree(VECTORS.double().numpy()).query(QUERIES.double().numpy(), k=7)
    assert np.array_equal(nearest(VECTORS, QUERIES, 7).numpy(), wanted)


def test_ranks_are_those_of_a_sort():
    sources = torch.arange(40) * 3
    distances = torch.cdist(QUERIES.double(), VECTORS.double())
    order = distances.argsort(1).tolist()
    wanted = [row.index(int(s)) + 1 for row, s in zip(order, sources, strict=True)]
    assert ranks(VECTORS, QUERIES, sources).tolist() == wanted
    assert ranks(VECTORS, VECTORS[:5], torch.arange(5)).tolist() == [1] * 5


def test_any_chunk_gives_the_same(monkeypatch):
    vectors = torch.cat([VECTORS, VECTORS + 1e-7])  # near enough for rounding to mix them up
    sources = torch.arange(40) + 300
    wanted = ranks(vectors, QUERIES, sources), nearest(vectors, QUERIES, 9)
    monkeypatch.setattr(retrieval, "CHUNK", 7)
    monkeypatch.setattr(retrieval, "EXACT", 1000)
    assert torch.equal(ranks(vectors, QUERIES, sources), wanted[0])
    assert torch.equal(nearest(vectors, QUERIES, 9), wanted[1])
    one_by_one = [ranks(vectors, QUERIES[i : i + 1], sources[i : i + 1]) for i in range(40)]
    assert torch.equal(torch.cat(one_by_one), wanted[0])


def test_far_from_the_origin_nothing_is_rounded_away():
    sources = torch.arange(40)
    far = (VECTORS.double() + 1e4).float()
    queries = (QUERIES.double() + 1e4).float()
    distances = torch.cdist(
        queries.double(), far.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearer = (distances < distances[torch.arange(40), sources][:, None]).sum(1) + 1
    assert torch.equal(ranks(far, queries, sources), nearer)


def test_squares_that_float32_does_not_hold():
    vectors = normal(5, (30, 4)) * 1e25
    assert nearest(vectors, vectors, 1)[:, 0].tolist() == list(range(30))
    assert ranks(vectors, vectors, range(30)).tolist() == [1] * 30


def test_ties_count_once_and_turns_change_nothing():
    copies = torch.cat([VECTORS, VECTORS, VECTORS])
    sources = torch.arange(40)
    once = ranks(VECTORS, QUERIES, sources)
    assert torch.equal(ranks(copies, QUERIES, sources), 3 * (once - 1) + 1)
    turn = torch.linalg.qr(normal(3, (12, 12)))[0]
    assert torch.equal(ranks(VECTORS @ turn * 5, QUERIES @ turn * 5, sources), once)
    assert nearest(copies, VECTORS[:1], 3).tolist() == [[0, 300, 600]]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: nearest(VECTORS, QUERIES, 301), "1 to the 300 vectors"),
        (lambda: nearest(VECTORS, QUERIES[:, :5], 3), "rows of one width"),
        (lambda: nearest(VECTORS, QUERIES * float("nan"), 3), "Row 0 of the queries is no number"),
        (lambda: nearest(VECTORS[:0], QUERIES, 1), "nothing to search"),
        (lambda: ranks(VECTORS, QUERIES, torch.arange(39)), "Each of the 40 queries"),
        (lambda: ranks(VECTORS, QUERIES, torch.arange(40) + 290), "0 to 299"),
    ],
)
def test_what_cannot_be_searched(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_ranks_are_told_together():
    figures = rank_figures(torch.tensor([1, 2, 5, 10]))
    assert figures._asdict() == pytest.approx(
        {"mean_rank": 4.5, "median_rank": 3.5, "mrr": 0.45, "top1": 0.25, "top5": 0.75}
    )
