"""Shows a counterfactual sheet's chains at once against one by one, and a trajectory in one pass.

The toy network, a code of 128 in stages, fp32, one thread, processor time: 40 chains in batches
against 40 loops of batch 1, as the original runs them; both codes on one way down of trunk and
frozen half against the decoder run twice; steps without a code against steps with one.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from pdae_step import training  # beside this file

from diffdict.backbones.denoiser import Given
from diffdict.reports.codes.chains import Chains
from diffdict.reports.interpolate import trajectory

CHAINS, STEPS, REPEATS = 40, 2, 2
GOALS = {"sheet": 1.4, "trajectory": 1.3, "without code": 1.5}


def seconds(run: Callable[[], object]) -> float:
    """Of processor time."""
    began = time.process_time()
    run()
    return time.process_time() - began


def ratio(plain: Callable[[], object], ours: Callable[[], object]) -> float:
    """By what factor ours is faster; pairs in turn, so that the machine's load falls on both.

    Both have run before, when their answers were compared.
    """
    pairs = [(seconds(plain), seconds(ours)) for _ in range(REPEATS)]
    return statistics.median(a / b for a, b in pairs)


@torch.no_grad()
def main(chains: int = CHAINS) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pdae = training().pdae().eval()
    noise, codes = torch.randn(chains, 3, 64, 64), torch.randn(chains, 128)
    together, alone = (Chains(pdae, f"linspace{STEPS}", batch=batch) for batch in (16, 1))
    at_once, one_by_one = together.draw(noise, codes), alone.draw(noise, codes)
    apart = (at_once - one_by_one).abs().max().item()
    sheet = ratio(lambda: alone.draw(noise, codes), lambda: together.draw(noise, codes))
    print(f"one by one / {chains} chains at once: {sheet:.2f} (goal {GOALS['sheet']})")
    print(f"their pictures differ by {apart:.1e} at most", flush=True)

    x, t = noise[:8], torch.full((8,), 500)
    pair = codes[:8], codes[:8].roll(1, 0)
    mixed = torch.cat([*pair, torch.full((8, 1), 0.5)], dim=1)
    told = trajectory(together)(mixed)

    def twice() -> torch.Tensor:
        both = [together.net(x, t, Given(vector=one)) for one in pair]
        return torch.lerp(*both, 0.5)

    apart = (told(x, t) - twice()).abs().max().item()
    passes = ratio(twice, lambda: told(x, t))
    print(f"two passes / trajectory: {passes:.2f} (goal {GOALS['trajectory']})")
    print(f"their answers differ by {apart:.1e} at most", flush=True)
    given = Given(vector=pair[0])
    together.net(x, t)  # as warm as the other
    bare = ratio(lambda: together.net(x, t, given), lambda: together.net(x, t))
    print(f"with a code / without: {bare:.2f} (goal {GOALS['without code']})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
