"""Shows a training step of DDAE's 2.2M network, bf16, channels_last, compiled, fused attention.

Against the original's way: eager fp32, contiguous memory, attention by einsum. One thread, batch
64; compiling takes minutes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdict.backbones.ddae_layers import TokenAttention
from diffdict.backbones.ddae_unet import DdaeUnet

GOAL = 2.0


class EinsumAttention(TokenAttention):
    """As published: q and k each times d^(-1/4), two einsums, a softmax between."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        qkv = self.projection(tokens).unflatten(2, (self.heads, 3, -1))
        q, k, v = qkv.unbind(3)
        scale = q.shape[-1] ** -0.25
        weights = torch.einsum("bihd,bjhd->bijh", q * scale, k * scale).softmax(dim=2)
        h = self.output(torch.einsum("bijh,bjhd->bihd", weights, v).flatten(2))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


def network(attention: type, memory: torch.memory_format) -> DdaeUnet:
    """That of experiment=ddae_small with fresh, equal weights."""
    torch.manual_seed(0)
    net = DdaeUnet(32, n_channels=32)
    for module in net.modules():
        if isinstance(module, TokenAttention):
            module.__class__ = attention
    return net.to(memory_format=memory)


def step(
    batch: int, attention: type, memory: torch.memory_format, bf16: bool, compiled: bool
) -> Callable[[], float]:
    """A function that makes one training step and says its processor seconds."""
    net = network(attention, memory)
    call = torch.compile(net) if compiled else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=generator).to(memory_format=memory)
    t = torch.randint(1, net.process.steps + 1, (batch,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)

    def run() -> float:
        begin = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = call(x, t)
        F.mse_loss(output.float(), noise).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - begin

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    plain = (EinsumAttention, torch.contiguous_format, False, False)
    variants = {
        "eager fp32, einsum (plain)": plain,
        "bf16, channels_last": (TokenAttention, torch.channels_last, True, False),
        "… compiled": (TokenAttention, torch.channels_last, True, True),
    }
    if asked.eager:
        del variants["… compiled"]
    runs = {name: step(asked.batch, *options) for name, options in variants.items()}
    for run in runs.values():  # compiles, fills the caches
        run()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.repeats):
        for name, run in runs.items():
            seconds[name].append(run())
    first, *_ = medians = [statistics.median(times) for times in seconds.values()]
    for name, middle in zip(runs, medians, strict=True):
        print(f"{name:28} {first / middle:.2f}× plain")
    if not asked.eager:
        print(f"goal of the last {GOAL}×")


if __name__ == "__main__":
    main()
