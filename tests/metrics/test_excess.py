"""Excess: a latent's mean code inside a class less its mean everywhere."""

import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.excess import Excess, most_in_excess
from diffdict.sae.sparse import Codes


def sparse(codes):
    token, latent = codes.nonzero(as_tuple=True)
    counts = torch.bincount(token, minlength=len(codes))
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Codes(starts, latent, codes[token, latent])


def test_it_is_the_difference_of_means_in_any_batches():
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(50, 6, generator=generator).mul(2).sub(1).relu()
    labels = torch.randint(-1, 2, (50,), generator=generator)
    metric = Excess(3, 6)
    for part in (slice(30, 50), slice(0, 30)):
        metric.update(*sparse(codes[part]), labels[part])
    found = metric.compute()
    for label in range(2):
        wanted = codes[labels == label].mean(0) - codes.mean(0)
        assert torch.allclose(found[label].float(), wanted, atol=1e-6)
    assert found[2].isnan().all()


def test_only_what_is_stronger_inside_is_named():
    excess = torch.tensor([[0.1, -0.2, 0.5, 0.0], [torch.nan] * 4], dtype=torch.float64)
    assert most_in_excess(excess) == [[2, 0], []]
    assert most_in_excess(excess, 1) == [[2], []]


def test_without_tokens_there_is_none():
    with pytest.raises(UserError, match="No token"):
        Excess(2, 3).compute()
