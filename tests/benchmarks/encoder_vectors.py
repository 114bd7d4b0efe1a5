"""Shows vectors of 256 pictures at 224 pixels by a ResNet-50, against batches of one.

python tests/benchmarks/encoder_vectors.py [pictures, 256] [batch, 64]
"""

import sys
import time

import torch
from torch import Tensor

from diffdict.representations.resnet import ResNetVector

GIVEN = dict(enumerate(map(int, sys.argv[1:])))
PICTURES, BATCH = GIVEN.get(0, 256), GIVEN.get(1, 64)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GOAL = {"cpu": 1.2, "cuda": 5.0}


def vectors(net: ResNetVector, images: Tensor, batch: int) -> tuple[float, Tensor]:
    """Seconds, and the vectors made so many at a time."""
    begin = time.perf_counter()
    made = torch.cat([net.vectors(part.to(DEVICE)).cpu() for part in images.split(batch)])
    return time.perf_counter() - begin, made


def main() -> None:
    """Both ways after a warm-up; the vectors are the same to rounding."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = ResNetVector("supervised").to(DEVICE)
    images = torch.rand(PICTURES, 3, 224, 224) * 2 - 1
    for batch in (1, BATCH):
        vectors(net, images[:batch], batch)
    together, ours = vectors(net, images, BATCH)
    alone, plain = vectors(net, images, 1)
    torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-3)
    print(
        f"{DEVICE}, one thread, {PICTURES} pictures: {together:.1f} s in batches of {BATCH}, "
        f"{alone:.1f} s one by one, {alone / together:.2f} × (goal {GOAL[DEVICE]})"
    )


if __name__ == "__main__":
    main()
