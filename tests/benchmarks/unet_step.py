"""Shows a training step of the toy U-Net against einsum attention in contiguous memory, eager.

Then what bf16, channels_last and both give; on CUDA too if there. `--compile` adds torch.compile to
both, which takes minutes to start on a CPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from diffdict.backbones.guided_layers import Attention
from diffdict.backbones.guided_unet import GuidedUNet

REPEATS, BATCH = 7, {"cpu": 8, "cuda": 128}
CONFIG = Path(__file__).parents[2] / "conf/backbone/toy_ddpm.yaml"


class EinsumAttention(Attention):
    """The published form: contiguous heads, two einsums, a float32 softmax between."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *space = x.shape
        flat = x.reshape(batch, channels, -1).contiguous()
        qkv = F.conv1d(self.norm(flat), self.qkv.weight, self.qkv.bias)
        width = channels // self.heads
        q, k, v = qkv.reshape(batch * self.heads, 3 * width, -1).split(width, dim=1)
        scale = width**-0.25
        scores = torch.einsum("bct,bcs->bts", q * scale, k * scale)
        weights = scores.float().softmax(dim=-1).type(scores.dtype)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(batch, channels, -1)
        return (flat + F.conv1d(h, self.proj_out.weight, self.proj_out.bias)).view(
            batch, -1, *space
        )


def network(device: str, attention: type, memory: torch.memory_format) -> GuidedUNet:
    """The toy U-Net with fresh, equal weights."""
    torch.manual_seed(0)
    flags = OmegaConf.to_container(OmegaConf.load(CONFIG).backbone)
    net = GuidedUNet(**{k: v for k, v in flags.items() if k not in ("_target_", "checkpoint")})
    for module in net.modules():
        if isinstance(module, Attention):
            module.__class__ = attention
    return net.to(device, memory_format=memory)


def step(
    device: str,
    attention: type = Attention,
    channels_last: bool = False,
    bf16: bool = False,
    compiled: bool = False,
) -> Callable[[], float]:
    """A function that makes one training step and says its seconds."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    net = network(device, attention, memory)
    call = torch.compile(net) if compiled else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    size = net.image_size
    x = torch.randn(BATCH[device], 3, size, size, device=device).to(memory_format=memory)
    t = torch.randint(0, net.num_timesteps, (BATCH[device],), device=device)
    noise = torch.randn_like(x)

    def run() -> float:
        begin = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = F.mse_loss(call(x, t)[:, :3], noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return run


def measure(device: str, compiled: bool) -> None:
    """The table of one device: the variants in turn, again and again, and their medians."""
    variants = {
        "einsum, NCHW, eager (plain)": step(device, EinsumAttention),
        "diffdict": step(device),
        "diffdict + channels_last": step(device, channels_last=True),
        "diffdict + bf16": step(device, bf16=True),
        "diffdict + both": step(device, channels_last=True, bf16=True),
    }
    if compiled:
        variants["diffdict + both, compiled"] = step(device, Attention, True, True, True)
    for run in variants.values():  # compiles, tunes, fills the caches
        run()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(REPEATS):
        for name, run in variants.items():
            seconds[name].append(run())
    plain = statistics.median(seconds["einsum, NCHW, eager (plain)"])
    print(f"{device}, batch {BATCH[device]}, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:28} {BATCH[device] / middle:8.1f} pictures/s  {plain / middle:.2f}× plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true")
    compiled = parser.parse_args().compile
    measure("cpu", compiled)
    if torch.cuda.is_available():
        measure("cuda", compiled)


if __name__ == "__main__":
    main()
