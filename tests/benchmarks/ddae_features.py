"""Shows what stopping after the last block saves on DDAE's two networks, and what bf16 adds.

Against the original's way, a whole pass with a hook: fp32, batch 8 of 32 px, random weights, one
thread. Then the whole frozen pass, fp32 in contiguous memory against bf16 and channels_last.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffdict.backbones.ddae_layers import LevelBlock
from diffdict.backbones.ddae_unet import DdaeUnet

BATCH, TIMESTEP, GOAL = 8, 11, 2.2
PLUS = {
    "ch_mults": (2, 2, 2),
    "is_attn": (False, True, False),
    "n_blocks": 4,
    "use_res_for_updown": True,
}
NETWORKS = {"35.7M": ({}, (6,)), "56.5M": (PLUS, (6, 7))}  # flags, and the published blocks


def full_pass(net: DdaeUnet, images: Tensor, noise: Tensor, block: int) -> Tensor:
    """A block's pooled map as the original has it: by a hook, on a pass that goes to the end."""
    blocks = [layer for layer in net.up if isinstance(layer, LevelBlock)]
    seen = []
    hook = blocks[block - 1].register_forward_hook(lambda *called: seen.append(called[2]))
    x_t, t = net.noised(images, TIMESTEP, noise)
    net(x_t, t)
    hook.remove()
    return seen[0].mean((2, 3))


def stopped(net: DdaeUnet, images: Tensor, noise: Tensor, block: int) -> Tensor:
    """The same from a pass that ends with it."""
    return net.features(images, TIMESTEP, [block], noise)[block].mean((2, 3))


def flops(way: Callable[[], object]) -> int:
    """Floating-point operations of a way."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


def medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds of each, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


@torch.no_grad()
def half(net: DdaeUnet, images: Tensor, noise: Tensor) -> Tensor:
    """The last block in bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        return stopped(net, images, noise, max(net.shapes))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, noise = torch.randn(2, BATCH, 3, 32, 32)
    for name, (flags, blocks) in NETWORKS.items():
        net = DdaeUnet(32, **flags).eval()
        for block in blocks:
            torch.testing.assert_close(
                stopped(net, images, noise, block), full_pass(net, images, noise, block)
            )
            ways = {
                "whole": lambda net=net, block=block: full_pass(net, images, noise, block),
                "stopped": lambda net=net, block=block: stopped(net, images, noise, block),
            }
            took, share = medians(ways, repeats), flops(ways["stopped"]) / flops(ways["whole"])
            print(
                f"{name} block {block}: {took['whole'] / took['stopped']:.2f}× a whole pass with a "
                f"hook (goal {GOAL}×), {share:.2f} of its FLOPs"
            )
        last, fast = max(net.shapes), DdaeUnet(32, **flags).eval()
        fast.load_state_dict(net.state_dict())
        fast = fast.to(memory_format=torch.channels_last)
        near = images.to(memory_format=torch.channels_last)
        ways = {
            "plain": lambda net=net, last=last: stopped(net, images, noise, last),
            "half": lambda fast=fast, near=near: half(fast, near, noise),
        }
        took = medians(ways, repeats)
        print(
            f"{name} frozen pass, bf16 and channels_last: {took['plain'] / took['half']:.2f}× fp32 "
            "(goal 1.4×)"
        )


if __name__ == "__main__":
    main()
