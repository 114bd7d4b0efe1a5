"""Shows what steering costs: a pass, amounts that share a chain's beginning, variants of a pass.

And a latent screened in one pass among sixteen, against its whole chain, labelling apart.

Against the plain way in the same run: the toy network's flags, fp32, one thread, processor seconds.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.diffusion.chains.pairs import Branch, draw_pairs, window_level
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.sae.steering import Steering
from diffdict.sae.topk import TopK

REPEATS = 9
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
CHAIN = partial(ddim, respacing="ddim10")
AMOUNTS = (-6, -4, -2, 0, 2, 3, 4)
SCREENED, STEPS = 16, 20  # latents that share a pass; steps of a chain that screening stands for


def seconds(run: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def ratio(plain: Callable[[], object], ours: Callable[[], object], repeats: int) -> float:
    """Median of ours over plain, in pairs, so that what the machine does besides falls on both."""
    ours()
    plain()
    return statistics.median(seconds(ours) / seconds(plain) for _ in range(repeats))


def learned(net: GuidedUNet, block: int) -> TopK:
    """A dictionary of the block's tokens, 768 latents wide, 16 active."""
    maps = net.features(torch.randn(8, 3, 64, 64), 250, [block])[block]
    tokens = maps.permute(0, 2, 3, 1).flatten(0, 2)
    mean = tokens.mean(0)
    scale = float((tokens - mean).square().mean().rsqrt())
    return TopK(tokens.shape[1], mean, scale, latents=768, k=16).eval()


def screening(net: GuidedUNet, x: torch.Tensor, t: torch.Tensor) -> float:
    """How many times quicker one pass shows what a latent does than its chain."""
    sae = learned(net, 2)
    edits = [{2: Steering(sae, [latent], amount=-6)} for latent in range(SCREENED)]
    chain = partial(ddim, respacing=f"ddim{STEPS}")
    whole = lambda: chain(partial(net, edits=edits[0]), x, net.process, objective=Objective()).x  # noqa: E731
    return SCREENED / ratio(whole, lambda: net.forward_each(x, t, None, edits), 1)


@torch.no_grad()
def main() -> None:
    """A line a claim."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = GuidedUNet(**FLAGS).eval()
    for parameter in net.parameters():
        parameter.normal_(0, 0.05)
    x, t = torch.randn(4, 3, 64, 64), torch.full((4,), 250)
    plain = lambda: net(x, t)  # noqa: E731
    assert torch.equal(net(x, t, edits={}), plain())
    print(
        f"edits={{}} / none: {ratio(plain, lambda: net(x, t, edits={}), REPEATS):.3f} (goal 1.00)"
    )
    for block, goal in ((2, 1.08), (3, 1.2)):
        edits = {block: Steering(learned(net, block), range(8))}
        found = ratio(plain, partial(net, x, t, edits=edits), REPEATS)
        print(f"8 latents of block {block} / none: {found:.3f} (goal {goal})")
    edits = [{2: Steering(learned(net, 2), range(8), amount=a)} for a in AMOUNTS]

    def whole(edit: dict | None) -> torch.Tensor:
        step = partial(net, edits=edit)
        return CHAIN(step, x, net.process, objective=Objective()).x

    def shared() -> list[torch.Tensor]:
        level = window_level([0, 500], CHAIN, net.process)
        branches = [Branch(partial(net, edits=edit), level) for edit in edits]
        return draw_pairs(net, branches, x, net.process, CHAIN, objective=Objective()).on

    apart = lambda: [whole(edit) for edit in (None, *edits)]  # noqa: E731
    print(f"seven amounts in [0, 500), shared / apart: {1 / ratio(apart, shared, 1):.2f} × (1.6)")
    print(f"a latent screened / its chain: {screening(net, x, t):.1f} × (20)")
    variants = [None, *edits[:4]]
    five = lambda: [net(x, t, edits=edit) for edit in variants]  # noqa: E731
    once = lambda: net.forward_each(x, t, None, variants)  # noqa: E731
    assert all(map(torch.equal, five(), once()))
    print(
        f"five variants of a pass, the way down once: {1 / ratio(five, once, REPEATS):.2f} × (1.3)"
    )


if __name__ == "__main__":
    main()
