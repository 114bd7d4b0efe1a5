"""The Inception score: the published loop over splits, ends, any batches."""

import numpy as np
import pytest
import torch

from diffdict.metrics.samples import inception_score
from diffdict.metrics.samples.inception_score import InceptionScore


def published(preds, split_size):
    """OpenAI's evaluator, restated."""
    scores = []
    for start in range(0, len(preds), split_size):
        part = preds[start : start + split_size]
        kl = part * (np.log(part) - np.log(np.expand_dims(np.mean(part, 0), 0)))
        scores.append(np.exp(np.mean(np.sum(kl, 1))))
    return float(np.mean(scores))


@pytest.mark.parametrize("split", [5000, 7])
def test_it_is_the_published_one_in_any_batches(monkeypatch, split):
    monkeypatch.setattr(inception_score, "SPLIT", split)
    shares = torch.randn(17, 9, generator=torch.Generator().manual_seed(0)).softmax(1)
    score = InceptionScore(17, 9)
    for some in torch.randperm(17).split(5):
        score.update(shares[some], some)
    assert score.compute() == pytest.approx(published(shares.double().numpy(), split), rel=1e-9)


def test_ends():
    sure, alike = InceptionScore(4, 4), InceptionScore(4, 4)
    sure.update(torch.eye(4), torch.arange(4))
    alike.update(torch.full((4, 4), 0.25), torch.arange(4))
    assert (sure.compute(), alike.compute()) == (pytest.approx(4), pytest.approx(1))
