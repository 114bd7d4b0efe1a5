"""Thirty-six linear heads side by side against one module and one optimizer each.

Three timesteps by the twelve blocks of the 35.7M network, batches of 128 pooled pictures, ten
classes; torch's Adam as it comes for the heads alone, one fused Adam for all. Seconds are those of
the processor, one thread; features are at hand for both. Target: ≥ 1.5 ×, weights to 1e-6.
"""

import time

import torch
from torch import nn
from torch.nn import functional as F

from diffdict.classifiers.linear import LinearHeads

WIDTHS = ([256] * 9 + [128] * 3) * 3
CLASSES, BATCH, STEPS, REPEATS = 10, 128, 50, 3
Batch = tuple[list[torch.Tensor], torch.Tensor]


def drawn(steps: int) -> list[Batch]:
    """Vectors of every cell, and labels."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            [torch.randn(BATCH, width, generator=generator) for width in WIDTHS],
            torch.randint(CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(steps)
    ]


def alone(heads: LinearHeads, batches: list[Batch]) -> tuple[list[nn.Linear], float]:
    """Each head by itself: its layer, and the seconds of a step of all."""
    layers = [nn.Linear(width, CLASSES) for width in WIDTHS]
    for cell, layer in enumerate(layers):
        own, member = heads.own[0][str(WIDTHS[cell])], heads.cells[WIDTHS[cell]].index(cell)
        layer.weight.data, layer.bias.data = own.weight[member].clone(), own.bias[member].clone()
    optimizers = [torch.optim.Adam(layer.parameters(), lr=1e-3) for layer in layers]
    start = time.process_time()
    for vectors, label in batches:
        for layer, optimizer, x in zip(layers, optimizers, vectors, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(layer(x), label).backward()
            optimizer.step()
    return layers, (time.process_time() - start) / len(batches)


def together(heads: LinearHeads, batches: list[Batch]) -> float:
    """Seconds of a step of all heads as one."""
    optimizer = torch.optim.Adam(heads.parameters(), lr=1e-3, fused=True)
    start = time.process_time()
    for vectors, label in batches:
        optimizer.zero_grad()
        scores = heads(vectors)[:, 0].log_softmax(-1)
        (-scores[:, torch.arange(BATCH), label].mean(1)).sum().backward()
        optimizer.step()
    return (time.process_time() - start) / len(batches)


def apart(heads: LinearHeads, layers: list[nn.Linear]) -> float:
    """The largest difference of a weight."""
    return max(
        float(
            (heads.own[0][str(width)].weight[heads.cells[width].index(cell)] - layer.weight)
            .abs()
            .max()
        )
        for cell, (width, layer) in enumerate(zip(WIDTHS, layers, strict=True))
    )


def main() -> None:
    torch.set_num_threads(1)
    batches, ratios = drawn(STEPS), []
    for _ in range(REPEATS):
        heads = LinearHeads(WIDTHS, CLASSES)
        layers, slow = alone(heads, batches)
        fast = together(heads, batches)
        ratios.append((slow / fast, slow, fast, apart(heads, layers)))
    ratio, slow, fast, difference = sorted(ratios)[len(ratios) // 2]
    print(f"{len(WIDTHS)} heads, batches of {BATCH}")
    print(f"  one after the other   {1e3 * slow:6.2f} ms a step")
    print(f"  side by side          {1e3 * fast:6.2f} ms, ratio {ratio:.2f}   (target ≥ 1.5)")
    print(f"  weights after {STEPS}     {difference:.1e} apart   (target ≤ 1e-6)")


if __name__ == "__main__":
    main()
