"""Shows drawing 8 samples of 16 pictures in full batches, against one picture at a time.

And bf16 in channels-last against fp32, and how often an encoder sees a picture.
python tests/benchmarks/rcdm_drawing.py [pictures, 16] [steps, 5] [repeats, 3]
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from diffdict.backbones.denoiser import Given
from diffdict.backbones.rcdm import RCDM
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, own_noise

GIVEN = dict(enumerate(map(int, sys.argv[1:])))
PICTURES, STEPS, REPEATS = GIVEN.get(0, 16), GIVEN.get(1, 5), GIVEN.get(2, 3)
EACH, FULL, WIDTH = 8, 64, 288
CONFIG = Path(__file__).parents[2] / "conf/backbone/toy_rcdm.yaml"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network() -> RCDM:
    """The toy RCDM; its weights are the packaged U-Net's, its vectors say something."""
    flags = OmegaConf.to_container(OmegaConf.load(CONFIG).backbone)
    net = RCDM(**{**{k: x for k, x in flags.items() if k != "_target_"}, "ssl_dim": WIDTH})
    torch.nn.init.normal_(net.ssl_emb.weight, std=0.05)
    return net.requires_grad_(False).eval().to(DEVICE)


@torch.no_grad()
def draw(net: RCDM, vectors: Tensor, batch: int, bf16: bool = False) -> Tensor:
    """Every row from its own noise, so many at a time."""
    parts = []
    for rows in torch.arange(len(vectors)).split(batch):
        noise = own_noise(0, rows.tolist(), (3, net.image_size, net.image_size))
        start, told = noise(STEPS).to(DEVICE), Given(vector=vectors[rows].to(DEVICE))
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            drawn = ddim(
                lambda x, t, told=told: net(x, t, told),
                start,
                net.process,
                objective=Objective(predict="v"),
                noise=noise,
                respacing=f"ddim{STEPS}",
            )
        parts.append(drawn.x.float().clamp(-1, 1).cpu())
    return torch.cat(parts)


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of one call, and what it drew."""
    begin = time.perf_counter()
    drawn = run()
    return time.perf_counter() - begin, drawn


def compare(ways: dict[str, Callable[[], Tensor]], goal: str) -> None:
    """The first way against the second, in turn; how far a pixel is apart."""
    first, second = ways
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    drawn = {}
    for _ in range(REPEATS):
        for name, run in ways.items():
            took, drawn[name] = timed(run)
            seconds[name].append(took)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    apart = float((drawn[first] - drawn[second]).abs().max()) * 127.5
    print(
        f"{DEVICE}, {PICTURES * EACH} samples of {STEPS} steps: {second} {middle[second]:.2f} s, "
        f"{first} {middle[first]:.2f} s, {middle[second] / middle[first]:.2f} × (goal {goal}); "
        f"a pixel differs by {apart:.3g} of 255 at most"
    )


def main() -> None:
    """Both comparisons; the encoder is counted, not timed."""
    torch.manual_seed(0)
    net = network()
    vectors = torch.randn(PICTURES, WIDTH).repeat_interleave(EACH, 0)
    goal = "1.5" if DEVICE == "cuda" else "parity"
    batches = {
        "full batches": lambda: draw(net, vectors, FULL),
        "a picture at a time": lambda: draw(net, vectors, EACH),
    }
    compare(batches, goal)
    last = network().to(memory_format=torch.channels_last)
    halves = {
        "bf16 in channels-last": lambda: draw(last, vectors, FULL, bf16=True),
        "fp32": lambda: draw(net, vectors, FULL),
    }
    compare(halves, "1.3")
    print(f"encoder passes a picture: 1, the original's {EACH} (it encodes copies)")


if __name__ == "__main__":
    main()
