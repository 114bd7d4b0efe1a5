"""Average precision over tokens is torchmetrics' own, in any batches; absent classes have none."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_average_precision

from diffdict.metrics.concepts.token_precision import TokenPrecision

CLASSES, LATENTS, TOKENS = 3, 6, 50


def as_entries(codes):
    token, latent = codes.nonzero(as_tuple=True)
    counts = torch.bincount(token, minlength=len(codes))
    return F.pad(counts.cumsum(0), (1, 0)), latent, codes[token, latent]


@pytest.mark.parametrize("parts", [1, 4])
def test_it_is_torchmetrics_where_what_is_not_active_ties(parts):
    random = torch.Generator().manual_seed(0)
    codes = (torch.rand(TOKENS, LATENTS, generator=random) - 0.6).relu()
    labels = torch.randint(-1, CLASSES - 1, (TOKENS,), generator=random)
    metric = TokenPrecision(CLASSES, LATENTS)
    for some in torch.arange(TOKENS).chunk(parts):
        metric.update(*as_entries(codes[some]), labels[some])
    found, seen = metric.compute(), labels >= 0
    for own in range(CLASSES - 1):
        for latent in range(LATENTS):
            wanted = binary_average_precision(codes[seen, latent], (labels[seen] == own).long())
            assert float(found[own, latent]) == pytest.approx(float(wanted), abs=1e-6)
    assert found[-1].isnan().all()
