"""Shows a step of DiTi against the original's weightless terms, and dual against two passes.

Then a step in bf16 and channels-last against eager fp32 (`--compile` adds torch.compile, which
takes minutes to start), and the bytes of a checkpoint against the original's, which keeps the
frozen half twice. The toy network, a code of 128, one thread, processor time.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from omegaconf import OmegaConf

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.tasks.pdae import PdaeTraining

BATCH, VIEWS, REPEATS = 8, 8, 5  # views: the original's 512 pictures twice, beside 128
CONFIG = Path(__file__).parents[2] / "conf/backbone/toy_ddpm.yaml"
PARTS = {"number": 16, "stages": [50, 100, 300, 500, 1000], "dims": [3, 6, 82, 25, 12]}
GOALS = {"weightless terms": 1.2, "dual": 1.8, "half precision": 2.0}


def training(mode: str = "base", **options: bool) -> PdaeTraining:
    """DiTi over the toy network, every weight drawn, so that all is heard and learns."""
    torch.manual_seed(0)
    flags = OmegaConf.to_container(OmegaConf.load(CONFIG).backbone)
    net = GuidedUNet(**{k: v for k, v in flags.items() if k not in ("_target_", "checkpoint")})
    optimizer = partial(torch.optim.Adam, lr=1e-4)
    with torch.no_grad():
        net.out[2].weight.normal_(std=0.02)
        task = PdaeTraining(net, CodeEncoder(64, 128), optimizer, PARTS, mode, **options)
        for parameter in task.net.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return task


def step(
    task: PdaeTraining, modes: tuple[str, ...], views: int = 0, bf16: bool = False
) -> Callable[[], None]:
    """One step: a pass for each mode, and the encoder over so many views whose loss weighs 0."""
    parameters = [p for part in task.learning() for p in part.parameters()]
    optimizer = task.optimizer(parameters)
    images, noise = torch.rand(2, BATCH, 3, 64, 64)
    more, t = torch.rand(views * BATCH, 3, 64, 64), torch.arange(BATCH) * 1000 // BATCH

    def run() -> None:
        for mode in modes:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                losses = task.losses(task.net, images, t, noise, task.net.codes(images), mode)
            (losses.filled.mean() * (2 if mode == "dual" else 1)).backward()
        if views:
            (0.0 * task.net.codes(more).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def compare(plain: Callable[[], None], ours: Callable[[], None]) -> float:
    """By what factor ours is faster; pairs in turn, so that the machine's load falls on both."""
    ratios = []
    for _ in range(REPEATS + 1):
        seconds = []
        for way in (plain, ours):
            began = time.process_time()
            way()
            seconds.append(time.process_time() - began)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])


def gradients_differ() -> float:
    """The largest difference between dual's gradients and the sum of both modes'."""
    grads = []
    for modes in (("base", "stop_grad"), ("dual",)):
        task = training().double()
        images, noise = torch.rand(2, 2, 3, 64, 64, dtype=torch.float64, generator=seeded())
        t = torch.tensor([200, 700])
        for mode in modes:
            losses = task.losses(task.net, images, t, noise, task.net.codes(images), mode)
            (losses.filled.mean() * (2 if mode == "dual" else 1)).backward()
        grads.append([p.grad for part in task.learning() for p in part.parameters()])
    return max((a - b).abs().max().item() for a, b in zip(*grads, strict=True))


def frozen_losses_differ() -> float:
    """By what share bf16 changes the loss of the frozen half."""
    task, t = training(), torch.arange(BATCH) * 1000 // BATCH
    images, noise = torch.rand(2, BATCH, 3, 64, 64, generator=seeded())
    means = []
    for bf16 in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = task.losses(task.net, images, t, noise, task.net.codes(images))
        means.append(losses.frozen.mean().item())
    return abs(means[1] / means[0] - 1)


def seeded() -> torch.Generator:
    """The same pictures every time."""
    return torch.Generator().manual_seed(1)


def share_of_bytes() -> float:
    """Ours: frozen half once. Theirs: once in the network and once in its average."""
    task = training()
    size = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    learned, frozen = sum(map(size, task.learning())), size(task.net.denoiser)
    moments = 2 * learned
    return (frozen + 2 * learned + moments) / (2 * frozen + 2 * learned + moments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true")
    compiled = parser.parse_args().compile
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = training()
    ratio = compare(step(copy.deepcopy(base), ("base",), VIEWS), step(base, ("base",)))
    print(f"with weightless terms / ours: {ratio:.2f} (goal {GOALS['weightless terms']})")
    dual = training("dual")
    ratio = compare(step(copy.deepcopy(dual), ("base", "stop_grad")), step(dual, ("dual",)))
    print(f"two passes / dual: {ratio:.2f} (goal {GOALS['dual']})")
    print(f"their gradients differ by {gradients_differ():.1e} at most, in double precision")
    plain = step(training(channels_last=False), ("base",))
    ratio = compare(plain, step(training(compile=compiled), ("base",), bf16=True))
    how = "compiled" if compiled else "eager"
    print(f"eager fp32 / {how} bf16: {ratio:.2f} (goal {GOALS['half precision']} compiled)")
    print(f"bf16 changes the frozen half's loss by {frozen_losses_differ():.1%} (goal 1 %)")
    print(f"checkpoint / the original's: {share_of_bytes():.2f} of the bytes (goal 0.82)")


if __name__ == "__main__":
    main()
