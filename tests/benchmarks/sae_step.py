"""A dictionary's training step, optimizer included, against plain eager PyTorch in the same run.

d = 512, 10,240 latents, batches of 4096; the plain step is F.linear, topk + scatter or relu,
F.linear, Adam, all in float32. Expected on a CPU with bf16 instructions: topk ≥ 3.5 in fp32 and
≥ 5.5 with a bf16 encoder, ≥ 2 with AuxK at 30 % dead latents; batch_topk and matryoshka ≥ 2.5;
relu ≥ 1.9 dense (bf16, compiled) and more by entries, gated and jumprelu too. The last column is
the share of the time that the step's own matrix products take alone: 1 would be their bound.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffdict.sae.base import Sae
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK

K, AUX_K, DEAD, DENSITY = 32, 256, 0.3, 0.025
LR = 1e-6  # so small that densities stay where they are put


class Plain(nn.Module):
    """The same mathematics as one would write it first."""

    def __init__(self, d_in: int, latents: int, k: int | str) -> None:
        super().__init__()
        self.k = k
        if k == "gated":
            self.r_mag, self.b_mag = (nn.Parameter(torch.zeros(latents)) for _ in range(2))
        self.encoder, self.decoder = nn.Linear(d_in, latents), nn.Linear(latents, d_in)
        self.decoder.weight.data = F.normalize(torch.randn(d_in, latents), dim=0)
        self.encoder.weight.data = self.decoder.weight.data.T.clone()

    def forward(self, x: Tensor) -> Tensor:
        pre = self.encoder(x - self.decoder.bias)
        if self.k == "relu":
            codes = pre.relu()
            penalty = 1e-3 * codes.sum() / x.numel()
        elif self.k == "gated":
            size = self.r_mag.exp() * (pre - self.encoder.bias) + self.b_mag
            codes, gate = size.relu() * (pre > 0), pre.relu()
            frozen = F.linear(gate, self.decoder.weight.detach(), self.decoder.bias.detach())
            penalty = 1e-3 * gate.sum() / x.numel() + (frozen - x).square().mean()
        else:
            values, chosen = pre.topk(self.k, dim=-1)
            codes = torch.zeros_like(pre).scatter(-1, chosen, values.relu())
            penalty = 0.0
        return (self.decoder(codes) - x).square().mean() + penalty


def plain_step(d_in: int, latents: int, k: int | str) -> Callable[[Tensor], None]:
    """Forward, backward, Adam as it comes."""
    net = Plain(d_in, latents, k)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)

    def step(x: Tensor) -> None:
        net(x).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(sae: Sae, half: bool, kind: str = "cpu") -> Callable[[Tensor], None]:
    """What tasks/sae.py does in a step."""
    sae.train()
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)

    def step(x: Tensor) -> None:
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            out = sae(x)
        out.loss.backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        optimizer.zero_grad()
        sae.unit_norm()
        if sae.dead_after > 1:  # else the dead stay dead, for the measurement's sake
            sae.count(out.active > 0, len(x))

    return step


def with_dead(sae: TopK) -> TopK:
    """Three in ten latents dead, and bound to stay so."""
    sae.dead_after = 1
    count = round(DEAD * sae.latents)
    sae.silent[:count] = 1
    sae.b_enc.data[:count] = -100
    return sae


def sparse(sae: Sae, x: Tensor) -> Sae:
    """As after some training: few latents active."""
    with torch.no_grad():
        pre = sae.pre(x[:512])
        rank = round((1 - DENSITY) * pre[0].numel() * len(pre))
        level = pre.flatten().kthvalue(rank).values
        if isinstance(sae, JumpRelu):
            sae.threshold.fill_(level)
            sae.bandwidth = float(level) / 20
        else:
            sae.b_enc.sub_(level)
        if isinstance(sae, Gated):
            sae.b_mag.copy_(sae.b_enc)
        sae.density.fill_(DENSITY)
    return sae


def seconds(step: Callable[[Tensor], None], batches: list[Tensor], rounds: int) -> float:
    """Median of a few steps after two to warm up."""
    taken = []
    for i in range(rounds + 2):
        began = time.perf_counter()
        step(batches[i % len(batches)])
        if batches[0].device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def product_seconds(d_in: int, latents: int, x: Tensor, half: bool, count: int) -> float:
    """So many products of the encoder's size alone."""
    dtype = torch.bfloat16 if half else torch.float32
    left, right = x.to(dtype), torch.randn(latents, d_in, device=x.device).to(dtype).T
    out = torch.empty(len(x), latents, dtype=dtype, device=x.device)
    return count * seconds(lambda _: torch.mm(left, right, out=out), [x], 5)


def cases(d: int, latents: int, first: Tensor) -> list[tuple]:
    """What is measured: name, baseline, half precision, matrix products, how it is made."""
    size = {"latents": latents}

    def compiled(sae: Relu) -> Relu:
        sae.compile_dense()
        return sae

    return [  # name, baseline's k, half, products, how it is made
        ("topk fp32", K, False, 1, lambda: TopK(d, k=K, **size)),
        ("topk bf16", K, True, 1, lambda: TopK(d, k=K, **size)),
        ("topk bf16 + AuxK", K, True, 1, lambda: with_dead(TopK(d, k=K, aux_k=AUX_K, **size))),
        ("batch_topk fp32", K, False, 1, lambda: BatchTopK(d, k=K, **size)),
        ("batch_topk bf16", K, True, 1, lambda: BatchTopK(d, k=K, **size)),
        ("matryoshka fp32", K, False, 1, lambda: Matryoshka(d, k=K, **size)),
        ("matryoshka bf16", K, True, 1, lambda: Matryoshka(d, k=K, **size)),
        ("relu dense bf16 compiled", "relu", True, 5, lambda: compiled(Relu(d, **size))),
        (
            "relu by entries fp32",
            "relu",
            False,
            1,
            lambda: sparse(Relu(d, **size), first),
        ),
        ("relu by entries bf16", "relu", True, 1, lambda: sparse(Relu(d, **size), first)),
        (
            "gated by entries bf16",
            "gated",
            True,
            1,
            lambda: sparse(Gated(d, **size), first),
        ),
        (
            "jumprelu by entries bf16",
            "relu",
            True,
            1,
            lambda: sparse(JumpRelu(d, **size), first),
        ),
    ]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("d", 512), ("latents", 10_240), ("batch", 4096), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mix = torch.randn(64, args.d) / 8  # tokens of low rank and some noise
    batches = [torch.randn(args.batch, 64) @ mix + 0.3 * torch.randn(args.batch, args.d)]
    batches = [(x / x.std()).to(device) for x in batches for _ in range(3)]

    plain: dict[int | str, float] = {}
    print(f"{'step':26s} {'tokens/s':>9s} {'ratio':>6s} {'of bound':>9s}")
    for name, k, half, products, make in cases(args.d, args.latents, batches[0]):
        if args.only not in name:
            continue
        if k not in plain:
            step = plain_step(args.d, args.latents, k)
            plain[k] = seconds(step, batches, args.rounds)
            label = f"plain {k}" if isinstance(k, str) else "plain topk"
            print(f"{label:26s} {args.batch / plain[k]:9.0f} {1:6.2f}", flush=True)
            del step
        gc.collect()
        sae = make().to(device)
        took = seconds(our_step(sae, half, device.type), batches, args.rounds)
        bound = product_seconds(args.d, args.latents, batches[0], half, products) / took
        active = f"  density {sae.density.item():.3f}" if hasattr(sae, "density") else ""
        line = f"{name:26s} {args.batch / took:9.0f} {plain[k] / took:6.2f} {bound:9.2f}{active}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
