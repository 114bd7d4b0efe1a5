"""CIFAR's training batches, flipped and cropped, gathered at once against a picture at a time.

The published layout with random bytes, 5,000 pictures, batches of 128 in one process; the same
pixels. Seconds are those of the processor, one thread. Target: ≥ 5 ×.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from diffdict.data.batches.augmented import Augmented
from diffdict.data.cifar import LAYOUTS, CifarDataset
from diffdict.data.images import epoch_order

EACH, BATCH, REPEATS = 1000, 128, 3


def write(folder: Path) -> None:
    """The archive's files."""
    generator, layout = np.random.default_rng(0), LAYOUTS[10]
    (folder / layout.names).write_text("".join(f"class{number}\n" for number in range(10)))
    for file in (*layout.files["train"], *layout.files["test"]):
        records = generator.integers(0, 256, (EACH, layout.record), dtype=np.uint8)
        records[:, 0] %= 10
        (folder / file).write_bytes(records.tobytes())


def rate(make: Callable[[list], dict], batches: list[list[tuple[int, int]]]) -> float:
    """Pictures a second."""
    start = time.process_time()
    for keys in batches:
        make(keys)
    return sum(map(len, batches)) / (time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        pictures = Augmented(CifarDataset("cifar10", place, "train"), 0, True, 4)
        keys = [(0, index) for index in epoch_order(5 * EACH, 0, 0)]
        batches = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
        single = lambda keys: default_collate([pictures[key] for key in keys])  # noqa: E731
        same = all(
            torch.equal(single(keys)[key], pictures.batch(keys)[key])
            for keys in batches[:4]
            for key in ("image", "label", "index")
        )
        rates = [(rate(single, batches), rate(pictures.batch, batches)) for _ in range(REPEATS)]
    slow, fast = sorted(rates, key=lambda pair: pair[1] / pair[0])[REPEATS // 2]
    print(f"CIFAR, flip and crop, batches of {BATCH}: the same pixels: {same}")
    print(f"  a picture at a time   {slow:8.0f} pictures a second")
    print(f"  a batch at once       {fast:8.0f}, ratio {fast / slow:.1f}   (target ≥ 5)")


if __name__ == "__main__":
    main()
