"""Shows what stopping after the last block asked for saves on the LSUN-256 U-Net.

Against a full pass with a hook: fp32, batch 1, random weights; minutes, and about 4 GB.
"""

import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.diffusion.schedules import q_sample

REPEATS, TIMESTEP = 3, 50
FLAGS = {
    "image_size": 256,
    "num_channels": 256,
    "num_res_blocks": 2,
    "attention_resolutions": "32,16,8",
    "num_head_channels": 64,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "learn_sigma": True,
}
PUBLISHED = [5, 6, 7, 8, 12]  # blocks of ddpm-segmentation
GOALS = {"block 6": 2.5, "blocks 5, 6, 7, 8, 12": 1.6}


def full_pass(net: GuidedUNet, images: Tensor, noise: Tensor) -> Tensor:
    """Block 6 as published: by a hook, on a pass that goes to the end."""
    seen = []
    hook = net.output_blocks[6].register_forward_hook(lambda *called: seen.append(called[2]))
    t = torch.full((len(images),), TIMESTEP, device=images.device)
    net(q_sample(net.process, images, t, noise), t)
    hook.remove()
    return seen[0]


def ways(net: GuidedUNet, images: Tensor, noise: Tensor) -> dict[str, Callable]:
    """What is timed, the least memory first."""
    return {
        "block 6": lambda: net.features(images, TIMESTEP, [6], noise)[6],
        "blocks 5, 6, 7, 8, 12": lambda: net.features(images, TIMESTEP, PUBLISHED, noise)[6],
        "full pass, hook": lambda: full_pass(net, images, noise),
    }


def flops() -> dict[str, int]:
    """Floating-point operations of each way, counted without computing anything."""
    counts = {}
    with torch.device("meta"):
        net, picture = GuidedUNet(**FLAGS), torch.empty(1, 3, 256, 256)
        for name, run in ways(net, picture, picture).items():
            with FlopCounterMode(display=False) as counter:
                run()
            counts[name] = counter.get_total_flops()
    return counts


def peak() -> float:
    """The most memory this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    counts = flops()
    net = GuidedUNet(**FLAGS).eval()
    images, noise = torch.randn(1, 3, 256, 256), torch.randn(1, 3, 256, 256)
    timed = ways(net, images, noise)
    answers, peaks = {}, {"built": peak()}
    for name, run in timed.items():
        answers[name], peaks[name] = run(), peak()
    assert all(torch.equal(answer, answers["block 6"]) for answer in answers.values())
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(REPEATS):
        for name, run in timed.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    whole, full = "full pass, hook", median["full pass, hook"]
    threads = torch.get_num_threads()
    print(f"LSUN-256 U-Net, fp32, batch 1, {threads} threads, {peaks['built']:.1f} GB when built")
    for name in timed:
        goal = f" (goal {GOALS[name]}×)" if name in GOALS else ""
        print(
            f"{name:22} {median[name]:6.2f} s  {1 / median[name]:.3f} pictures/s"
            f"  {full / median[name]:.2f}× the full pass{goal}  {counts[name] / 1e12:.3f} TFLOP,"
            f" {counts[name] / counts[whole]:.3f} of the full pass  peak {peaks[name]:.1f} GB"
        )


if __name__ == "__main__":
    main()
