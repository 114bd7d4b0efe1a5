"""SAELens's own training steps beside ours and the plain ones, in one run; needs `make saelens`.

d = 512, 10,240 latents, batches of 4096, Adam; SAELens's step is the body of its trainer (forward,
firing counts, backward, clipping, step). dictionary-learning, overcomplete and sparsify are not
timed: they do not install beside a current torch without torchvision, nnsight or Triton.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from sae_step import LR, K, our_step, plain_step, seconds
from torch import Tensor

from diffdict.sae.relu import Relu
from diffdict.sae.topk import TopK

ROOT = Path(__file__).parents[2]
THEIRS = ROOT / ".venv-saelens" / "bin" / "python"
D, LATENTS, BATCH, ROUNDS = 512, 10_240, 4096, 5


def their_step(k: int | None, half: bool) -> Callable[[Tensor], None]:
    """The body of SAELens's trainer around its own dictionary."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    if k is None:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(D, LATENTS))
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(D, LATENTS, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    weights = {"l1": 1e-3} if k is None else {}

    def step(x: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = sae.training_forward_pass(TrainStepInput(x, weights, dead, 0, False))
            with torch.no_grad():
                firing = out.feature_acts.bool().float()
                firing.sum(-2).bool()
                firing.sum(0)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """One table a family."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, 64) @ (torch.randn(64, D) / 8) + 0.3 * torch.randn(BATCH, D)
    x = x / x.std()
    families = {
        "topk": (K, lambda: TopK(D, k=K, latents=LATENTS)),
        "relu": (None, lambda: Relu(D, latents=LATENTS)),
    }
    for name, (k, make) in families.items():
        plain = seconds(plain_step(D, LATENTS, k or "relu"), [x], ROUNDS)
        for label, step in (
            ("plain", None),
            ("SAELens fp32", lambda k=k: their_step(k, False)),
            ("SAELens bf16", lambda k=k: their_step(k, True)),
            ("diffdict fp32", lambda make=make: our_step(make(), False)),
            ("diffdict bf16", lambda make=make: our_step(make(), True)),
        ):
            took = seconds(step(), [x], ROUNDS) if step else plain
            rate = f"{BATCH / took:7.0f} tokens/s {plain / took:6.2f}× plain"
            print(f"{name} {label:14s} {rate}", flush=True)


if __name__ == "__main__":
    if Path(sys.prefix) != THEIRS.parents[1]:
        if not THEIRS.exists():
            sys.exit("SAELens is not here: make saelens")
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(THEIRS, [str(THEIRS), __file__])
    main()
