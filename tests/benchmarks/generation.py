"""Shows what measuring and drawing pictures costs, against the ways of pytorch-fid and DDAE.

The root of covariances, memory of statistics, DiT's first blocks, flat memory of samples. `DIM`
in the environment is the width of features, 2048 unless said; minutes for SciPy's root.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytorch_lightning as pl
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffdict.backbones.dit import DiT
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.data.sample_indices import SampleIndices
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.metrics.frechet import FeatureStatistics, Statistics, frechet_distance
from diffdict.tasks.samples import Samples

DIM = int(os.environ.get("DIM", "2048"))
PICTURES, BLOCK, DEPTH = 50_000, 13, 28
MB = 1e6


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    """Of this process's processor, and the answer."""
    begin = time.process_time()
    answer = run()
    return time.process_time() - begin, answer


def peak() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def statistics(number: int, seed: int) -> Statistics:
    """Of features whose directions have very unequal sizes, as a network's do."""
    random = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -3, DIM)
    metric = FeatureStatistics(DIM)
    for begin in range(0, number, 1000):
        rows = min(1000, number - begin)
        metric.update(torch.randn(rows, DIM, generator=random) * scale + 0.1 * seed)
    return metric.compute()


def by_scipy(first: Statistics, second: Statistics) -> float:
    """pytorch-fid's formula."""
    (mu1, sigma1), (mu2, sigma2) = ([x.numpy() for x in each] for each in (first, second))
    root = scipy.linalg.sqrtm(sigma1 @ sigma2)
    if not np.isfinite(root).all():  # as pytorch-fid does
        offset = 1e-6 * np.eye(DIM)
        root = scipy.linalg.sqrtm((sigma1 + offset) @ (sigma2 + offset))
    return ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2) - 2 * np.trace(root.real)


def roots() -> None:
    """tr √(S1 S2) of full rank, and of fewer pictures than dimensions."""
    for name, number in (("full rank", 2 * DIM), ("singular", DIM // 4)):
        first, second = statistics(number, 0), statistics(number, 1)
        ours, value = seconds(partial(frechet_distance, *first, *second))
        theirs, wanted = seconds(partial(by_scipy, first, second))
        off = abs(float(value) - wanted) / abs(wanted)
        print(
            f"{name}, {DIM} dimensions: {ours:.1f} s against SciPy's {theirs:.1f} s, "
            f"{theirs / ours:.1f}× (goal 10×), {off:.1e} apart"
        )


def sums() -> None:
    """What statistics of all pictures hold, against all their features in float64."""
    metric = FeatureStatistics(DIM)
    ours = sum(x.numel() * x.element_size() for x in (metric.total, metric.second))
    theirs = PICTURES * DIM * 8
    metric.update(torch.randn(1000, DIM))
    before = peak()
    for _ in range(10):
        metric.update(torch.randn(1000, DIM))
    print(
        f"statistics of {PICTURES} pictures: {ours / MB:.0f} MB against {theirs / MB:.0f} MB, "
        f"1/{theirs / ours:.0f} (goal 1/10); 10,000 more pictures add {peak() - before:.0f} MB"
    )


@torch.no_grad()
def dit() -> None:
    """Features of a block in the middle against the whole pass, of a DiT-S/2 with XL/2's depth."""
    net = DiT(hidden_size=384, num_heads=6, depth=DEPTH).eval()
    latents, t = torch.randn(2, 4, 32, 32), torch.tensor([121, 121])
    ways = (
        lambda: net.features(latents, 121, [BLOCK], latents),
        lambda: net(latents, t),
    )
    counts = []
    for run in ways:
        with FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops())
    half, whole = (min(seconds(run)[0] for _ in range(3)) for run in ways)
    print(
        f"DiT to block {BLOCK} of {DEPTH}: {whole / half:.2f}× (goal 1.9×), "
        f"{counts[1] / counts[0]:.2f}× fewer FLOPs"
    )


def samples() -> None:
    """Memory of ten times as many samples, and the noise that eta 0 draws on its way."""
    net = GuidedUNet(16, 32, 1, channel_mult="1,1", attention_resolutions="16", name="tiny")
    drawn, peaks = [], []

    def counted(*args: object, noise: Callable, **rest: object) -> object:
        return ddim(*args, noise=lambda step: drawn.append(step) or noise(step), **rest)

    for number in (100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            sampler = partial(ddim, respacing="ddim2", eta=0.0)
            task = Samples(net, sampler, Objective(variance="fixed_large"), folder, number, 50)
            task.sampler = partial(counted, respacing="ddim2", eta=0.0)
            quiet = {"enable_progress_bar": False, "enable_model_summary": False}
            trainer = pl.Trainer(accelerator="cpu", logger=False, **quiet)
            trainer.predict(task, SampleIndices(number, 50, 50), return_predictions=False)
        peaks.append(peak())
    print(
        f"1,000 samples against 100: {peaks[1] / peaks[0]:.2f}× the memory (goal ≤ 1.1×); "
        f"ddim at eta 0 draws noise at {len(drawn)} steps (goal 0)"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    for part in (samples, sums, dit, roots):
        part()
