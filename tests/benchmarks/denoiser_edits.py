"""Shows what the branch for edits costs a pass of the U-Net when there are none.

Against the same layers called in a loop without it: fp32, one thread; the toy network's flags.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from diffdict.backbones.guided_layers import timestep_embedding
from diffdict.backbones.guided_unet import GuidedUNet

REPEATS, GOAL = 40, 0.01
FLAGS = {
    "image_size": 64,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2,3,4",
    "attention_resolutions": "16,8",
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "learn_sigma": True,
}


def plain(net: GuidedUNet, x: Tensor, t: Tensor) -> Tensor:
    """The pass without a contract around it."""
    embedding = net.time_embed(timestep_embedding(t, net.flags.num_channels))
    h, skips = x, []
    for block in net.input_blocks:
        h = block(h, embedding)
        skips.append(h)
    h = net.middle_block(h, embedding)
    for block in net.output_blocks:
        h = block(torch.cat([h, skips.pop()], dim=1), embedding)
    return net.out(h)


def seconds(run: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


@torch.no_grad()
def main() -> None:
    """Pairs in turn, so that what the machine does besides falls on both."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = GuidedUNet(**FLAGS).eval()
    x, t = torch.randn(4, 3, 64, 64), torch.full((4,), 50)
    ways = {"plain": lambda: plain(net, x, t), "no edits": lambda: net(x, t)}
    assert torch.equal(*(way() for way in ways.values()))
    ratios = []
    for _ in range(REPEATS):
        taken = {name: seconds(way) for name, way in ways.items()}
        ratios.append(taken["no edits"] / taken["plain"])
    ratio = statistics.median(ratios)
    spread = statistics.stdev(ratios) / len(ratios) ** 0.5
    print(f"no edits / plain: {ratio:.4f} ± {spread:.4f} (goal below {1 + GOAL})")


if __name__ == "__main__":
    main()
