"""Full-resolution counts latent × class of a picture against the notebook's way to them.

The notebook upsamples the features, encodes every pixel densely and compares class by class; it is
timed on fewer latents and classes and scaled (its parts grow in proportion to them). Ours counts
all: once on features as smooth as a U-Net's (correlated over five tokens), once on white noise, in
which most cells have a border of every latent: the worst case. Latents are active at about 2 % of
the pixels. Seconds are of the clock, and of the processor in brackets, which other work on the
machine changes less; ratios are of the latter. Expected: ≥ 30 for latents with a threshold,
≥ 10 for TopK, in less than 3 GB.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdict.metrics.concepts.overlap import Concepts

WIDTH, SIDE, SIZE, PART = 512, 32, 256, 12  # channels, tokens and pixels a side, parts a side
DENSITY = 0.02


class Clock(NamedTuple):
    """Seconds of the clock and of the processor."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:8.2f} s ({self.cpu:.2f})"

    def times(self, factor: float) -> "Clock":
        """So many times as long."""
        return Clock(self.wall * factor, self.cpu * factor)

    def plus(self, other: "Clock") -> "Clock":
        """One after the other."""
        return Clock(self.wall + other.wall, self.cpu + other.cpu)


def timed(work: Callable[[], object]) -> tuple[Clock, object]:
    """How long it takes, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Clock(time.perf_counter() - wall, time.process_time() - cpu), result


class Picture(NamedTuple):
    """Features, a mask, and an encoder."""

    features: Tensor  # [1, WIDTH, SIDE, SIDE]
    mask: Tensor  # [1, SIZE, SIZE]
    weight: Tensor  # [latents, WIDTH]
    bias: float

    def pre(self, part: slice, rows: slice = slice(None)) -> Tensor:
        """Pre-activations at native resolution."""
        some = self.features[:, :, rows]
        tokens = some.permute(0, 2, 3, 1).flatten(0, 2)
        maps = torch.addmm(torch.tensor([self.bias]), tokens, self.weight[part].T)
        return maps.view(1, some.shape[2], SIDE, -1).permute(0, 3, 1, 2)


def make(kind: str, latents: int, classes: int) -> Picture:
    """A picture whose features are smooth or noise."""
    generator = torch.Generator().manual_seed(0)
    side = 6 if kind == "smooth" else SIDE
    features = torch.randn(1, WIDTH, side, side, generator=generator)
    if side != SIDE:
        features = F.interpolate(features, size=(SIDE, SIDE), mode="bicubic")
    features = features / features.std()
    weight = torch.randn(latents, WIDTH, generator=generator) / WIDTH**0.5
    pixels = F.interpolate(features, size=(SIZE, SIZE), mode="bilinear")[0, :, ::8, ::8]
    some = (weight[:200] @ pixels.flatten(1)).flatten()
    bias = -float(some.quantile(1 - DENSITY))
    parts = torch.randint(classes, (1, 1, PART, PART), generator=generator).float()
    return Picture(features, F.interpolate(parts, size=SIZE)[:, 0].long(), weight, bias)


def notebook(
    picture: Picture, latents: int, classes: int, k: int | None, all_classes: int
) -> tuple[Clock, Tensor]:
    """The dense way on a few latents and classes, scaled to all; and its intersections."""
    upsampling, pixels = timed(
        lambda: F.interpolate(picture.features, size=(SIZE, SIZE), mode="bilinear")[0].flatten(1).T
    )

    def encode() -> Tensor:
        pre = F.linear(pixels, picture.weight[:latents]) + picture.bias
        if k is None:
            return pre.relu()
        values, chosen = pre.topk(k)
        return torch.zeros_like(pre).scatter_(1, chosen, values.relu())

    encoding, codes = timed(encode)

    def compare() -> Tensor:
        active, label = codes > 0, picture.mask.flatten()
        return torch.stack([(active & (label == c)[:, None]).sum(0) for c in range(classes)])

    comparing, both = timed(compare)
    more = len(picture.weight) / latents
    whole = encoding.times(more).plus(comparing.times(more * all_classes / classes))
    return upsampling.plus(whole), both


def main() -> None:
    """Prints seconds, ratios, the peak of memory, and how far the two ways differ."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latents", type=int, default=30720)
    parser.add_argument("--classes", type=int, default=29)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--few-latents", type=int, default=2048)
    parser.add_argument("--few-classes", type=int, default=3)
    given = parser.parse_args()
    few, names = given.few_latents, tuple(map(str, range(given.classes)))
    print(f"{given.latents} latents × {given.classes} classes, {SIDE}² tokens → {SIZE}² pixels, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    results = []
    for kind in ("smooth", "noise"):
        picture = make(kind, given.latents, given.classes)
        for rule, k in (("threshold", None), (f"top {given.k}", given.k)):
            metric = Concepts(names, torch.zeros(given.latents, 1), ranked=k)
            clock, _ = timed(lambda m=metric, p=picture: m.update(p.pre, p.mask))
            density = float(metric.intersections.sum() / (SIZE**2 * given.latents))
            print(f"ours      {kind:7s} {rule:10s} {clock}, active {density:.2%}", flush=True)
            results.append((picture, kind, rule, k, clock, metric))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process so far {peak:.2f} GB")
    for picture, kind, rule, k, clock, metric in results:
        dense, both = notebook(picture, few, given.few_classes, k, given.classes)
        ratio = dense.cpu / clock.cpu
        print(f"notebook  {kind:7s} {rule:10s} {dense}, ratio {ratio:.0f}", flush=True)
        if k is None:
            own = metric.intersections[0, : given.few_classes, :few]
            print(f"          counts differ by {(own - both).abs().sum()} of {both.sum()}")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
