"""Sanity on truth: tokens made of a known sparse dictionary give that dictionary back."""

import pytest
import torch
import torch.nn.functional as F

from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK

D, TRUE, ACTIVE = 32, 64, 3  # dimensions, true directions, how many a token holds
VARIANTS = [
    (Relu, {"sparsity": 1.0}),
    (Gated, {"sparsity": 3.0}),
    (JumpRelu, {"sparsity": 1.0}),
    (TopK, {"k": ACTIVE}),
    (BatchTopK, {"k": ACTIVE}),
    (Matryoshka, {"k": ACTIVE, "groups": [0.5, 0.5]}),
]


def tokens(truth: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Off-centre sums of a few true directions, 1 to 2 times their length, and a little noise."""
    chosen = torch.rand(count, TRUE, generator=generator).topk(ACTIVE).indices
    size = 1 + torch.rand(count, ACTIVE, generator=generator)
    codes = torch.zeros(count, TRUE).scatter(1, chosen, size)
    noise = 0.02 * torch.randn(count, D, generator=generator)
    return 3 + 2 * (codes @ truth + noise)


def recovered(sae: torch.nn.Module, truth: torch.Tensor) -> float:
    """The mean over true directions of the best |cosine| among the dictionary's rows."""
    rows = F.normalize(sae.dictionary.detach(), dim=1)
    return (truth @ rows.T).amax(1).mean().item()


def learn(make, options, steps=1000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = F.normalize(torch.randn(TRUE, D, generator=generator), dim=1)
    sample = tokens(truth, 8192, generator)
    mean = sample.mean(0)
    token_scale = (D / (sample - mean).square().sum(1).mean()).sqrt().item()
    sae = make(D, mean, token_scale, latents=2 * TRUE, dead_after=50_000, seed=seed, **options)
    optimizer = torch.optim.Adam(sae.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, 2 - 2 * i / steps))
    for step in range(steps):
        x = tokens(truth, 256, generator)
        out = sae(x, pressure=min(1.0, 4 * step / steps))
        optimizer.zero_grad()
        out.loss.backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        schedule.step()
        sae.unit_norm()
        sae.count(out.active > 0, len(x))
    return recovered(sae, truth), sae, tokens(truth, 1024, generator)


@pytest.mark.parametrize(("make", "options"), VARIANTS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_known_dictionary_is_found_again(make, options):
    cosine, sae, x = learn(make, options)
    assert cosine >= 0.95
    sae.eval()
    error = (sae.decode(sae.encode(x)) - x).square().sum()
    assert error / (x - x.mean(0)).square().sum() < 0.1
