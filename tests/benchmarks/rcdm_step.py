"""Shows a training step of the toy RCDM with stored vectors, against vectors made in every step.

By a ResNet-50 at 224 pixels, as the original does, and by blocks 1, 3 and 5 of the toy U-Net.
python tests/benchmarks/rcdm_step.py [batch, 16] [repeats, 7]
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffdict.backbones.denoiser import Given
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.rcdm import RCDM
from diffdict.representations.pooled import Pooled
from diffdict.representations.resnet import ResNetVector

GIVEN = dict(enumerate(map(int, sys.argv[1:])))
BATCH, REPEATS = GIVEN.get(0, 16), GIVEN.get(1, 7)
CONFIG = Path(__file__).parents[2] / "conf/backbone/toy_rcdm.yaml"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GOALS = {"ResNet-50 at 224": 1.7, "pooled to block 5": 1.15}


def flags() -> dict:
    """Those of the toy RCDM, for fresh weights."""
    whole = OmegaConf.to_container(OmegaConf.load(CONFIG).backbone)
    return {key: x for key, x in whole.items() if key not in ("_target_", "checkpoint", "ssl_dim")}


def step(width: int, vectors: Callable[[], Tensor]) -> Callable[[], float]:
    """A function that makes one training step, its vectors first, and says its seconds."""
    torch.manual_seed(0)
    net = RCDM(**flags(), ssl_dim=width).to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    x = torch.randn(BATCH, 3, net.image_size, net.image_size, device=DEVICE)
    x = x.to(memory_format=torch.channels_last)
    t = torch.randint(0, net.num_timesteps, (BATCH,), device=DEVICE)
    noise = torch.randn_like(x)

    def run() -> float:
        begin = time.perf_counter()
        loss = F.mse_loss(net(x, t, Given(vector=vectors()))[:, :3], noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return run


def main() -> None:
    """The ways in turn, again and again, and their medians."""
    plain = {key: x for key, x in flags().items() if key != "name"}
    pooled = Pooled(GuidedUNet(**plain), 50, [1, 3, 5]).to(DEVICE)
    resnet = ResNetVector("supervised").to(DEVICE)
    own = torch.randn(BATCH, 3, 64, 64, device=DEVICE).clamp(-1, 1)
    large = torch.randn(BATCH, 3, 224, 224, device=DEVICE).clamp(-1, 1)
    stored = {net.dim: torch.randn(BATCH, net.dim, device=DEVICE) for net in (pooled, resnet)}
    live = {
        "ResNet-50 at 224": (resnet.dim, lambda: resnet.vectors(large)),
        "pooled to block 5": (pooled.dim, lambda: pooled.vectors(own)),
    }
    for name, (width, vectors) in live.items():
        ways = {
            "stored": step(width, lambda width=width: stored[width]),
            "live": step(width, vectors),
        }
        flops = {}
        for way, run in ways.items():
            with FlopCounterMode(display=False) as counter:
                run()
            flops[way] = counter.get_total_flops()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(REPEATS):
            for way, run in ways.items():
                seconds[way].append(run())
        middle = {way: statistics.median(times) for way, times in seconds.items()}
        print(
            f"{DEVICE}, {BATCH} pictures, vectors by {name}: {middle['live']:.2f} s live, "
            f"{middle['stored']:.2f} s stored, {middle['live'] / middle['stored']:.2f} × "
            f"(goal {GOALS[name]}, by FLOPs at most {flops['live'] / flops['stored']:.2f})"
        )


if __name__ == "__main__":
    main()
