"""backbone=hub: passes that stop at half depth, and latents encoded once, against their peers."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from diffdict.backbones.hub import Hub
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from tests.tiny_pipelines import FAMILIES, save_pipeline, told

SIDE, BATCH, ROUNDS = 64, 4, 3
# wider and deeper than in tests, so that networks weigh more than what calls them
SIZES = {
    "sdxl": {"block_out_channels": (64, 128), "norm_num_groups": 32, "attention_head_dim": 8},
    "flux": {"num_layers": 4, "num_single_layers": 4, "num_attention_heads": 8},
}
HALF = {"sdxl": "mid_block", "flux": "transformer_blocks.3"}


def median(call: Callable[[], object]) -> float:
    """Seconds of the middle one of several calls."""
    call()
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[ROUNDS // 2]


def flops(call: Callable[[], object]) -> int:
    """Of matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@torch.no_grad()
def main() -> None:
    """The ratios in one run."""
    torch.manual_seed(0)
    images, noise = torch.rand(BATCH, 3, SIDE, SIDE), torch.randn(1, 4, SIDE // 4, SIDE // 4)
    for family, block in HALF.items():
        with tempfile.TemporaryDirectory() as folder:
            made = FAMILIES[family]
            vae = {**made.vae, "block_out_channels": (32, 64, 128), "norm_num_groups": 32}
            FAMILIES[family] = made._replace(config={**made.config, **SIZES[family]}, vae=vae)
            place = save_pipeline(family, Path(folder))
            net = Hub(str(place), SIDE, **told(family, place)).eval()
        latents, last = net.prepared(images), net.chosen(None)[-1]
        half = lambda: net.features(latents, 300, [block], noise)  # noqa: B023, E731
        full = lambda: net.features(latents, 300, [last], noise)  # noqa: B023, E731
        print(
            f"{family}: stopped at {block} {median(full) / median(half):.2f}× of the full pass, "
            f"by FLOPs {flops(full) / flops(half):.2f}×"
        )
        passes = Passes(net, [50, 250, 500], block, Noise())
        shown, stored = list(range(BATCH)), net.prepared(images)
        once = median(lambda: passes.maps(images, shown))  # noqa: B023
        from_store = median(lambda: passes.maps(stored, shown))  # noqa: B023
        anew = lambda: [net.features(images, t, [block], noise) for t in (50, 250, 500)]  # noqa: B023, E731
        each, work = median(anew), flops(anew) / flops(lambda: passes.maps(stored, shown))  # noqa: B023
        print(
            f"{family}: three timesteps, encoded each time / once / stored: {each:.3f} s, "
            f"{once:.3f} s, {from_store:.3f} s: {each / from_store:.2f}× stored, "
            f"by FLOPs {work:.2f}×"
        )


if __name__ == "__main__":
    main()
