"""Heads side by side against heads alone, each with an optimizer of its own."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffdict.classifiers.linear import LinearHeads

WIDTHS, CLASSES, RATES, STEPS = [4, 6, 4, 5], 3, [1e-3, 4e-3], 50


@pytest.mark.parametrize(
    "optimizer",
    [partial(torch.optim.Adam, fused=True), partial(torch.optim.AdamW, weight_decay=0.1)],
)
def test_fifty_steps_together_are_those_of_each_head_alone(optimizer):
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            [torch.randn(16, width, generator=generator) for width in WIDTHS],
            torch.randint(CLASSES, (16,), generator=generator),
        )
        for _ in range(STEPS)
    ]
    heads = LinearHeads(WIDTHS, CLASSES, len(RATES))
    groups = [
        {"params": list(own.parameters()), "lr": rate}
        for own, rate in zip(heads.own, RATES, strict=True)
    ]
    together, alone = optimizer(groups), {}
    scores = heads(batches[0][0])
    assert scores.shape == (len(WIDTHS), len(RATES), 16, CLASSES)
    for cell, width in enumerate(WIDTHS):
        for place, rate in enumerate(RATES):
            layer, member = nn.Linear(width, CLASSES), heads.cells[width].index(cell)
            own = heads.own[place][str(width)]
            layer.load_state_dict(
                {"weight": own.weight[member].clone(), "bias": own.bias[member].clone()}
            )
            alone[cell, place] = layer, optimizer(layer.parameters(), lr=rate)
    for vectors, label in batches:
        together.zero_grad()
        scores = heads(vectors)
        every = label.expand(scores.shape[:2] + label.shape)
        F.cross_entropy(scores.flatten(0, 2), every.flatten(), reduction="sum").div(16).backward()
        together.step()
        for (cell, _), (layer, own) in alone.items():
            own.zero_grad()
            F.cross_entropy(layer(vectors[cell]), label).backward()
            own.step()
    for (cell, place), (layer, _) in alone.items():
        width = WIDTHS[cell]
        own, member = heads.own[place][str(width)], heads.cells[width].index(cell)
        torch.testing.assert_close(own.weight[member], layer.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(own.bias[member], layer.bias, rtol=0, atol=1e-6)
