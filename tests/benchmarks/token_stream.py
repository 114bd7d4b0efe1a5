"""Shuffled tokens of a store against the ceiling: one plain memory map, whole pictures; one core.

Both fill a window of 131,072 tokens, permute it and gather batches of 4096 × 512 in fp16 into
reused memory. The ceiling takes whole pictures, which shuffles worse; ours takes strips of 64
tokens from shards. Expected: ratio ≥ 0.80; anonymous memory of our reader ≤ 400 MB.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from diffdict.features.noise import Noise
from diffdict.features.sources import StoredSource
from diffdict.features.store import (
    FeatureStore,
    Identity,
    pictures_per_shard,
    store_path,
)
from diffdict.features.store.shards import Stream
from diffdict.features.tokens.data_module import TokenLoader
from diffdict.features.tokens.pool import StoredPool

CHANNELS, SIDE, BATCH, WINDOW = 512, 32, 4096, 131_072
TOKENS = SIDE * SIDE


def anonymous_megabytes() -> float:
    """Memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def write(folder: Path, pictures: int) -> tuple[StoredSource, np.memmap]:
    """The same tokens as a store and as one flat file."""
    stream = Stream(CHANNELS, SIDE, SIDE, "fp16", 150, 6)
    noise, k = Noise(), pictures_per_shard(pictures)
    identity = Identity(
        "random", "0", "train", pictures, 256, 0, [], None, "net", "0", noise.facts(), "fp32", k
    )
    store = FeatureStore.create(store_path(folder, "random", "net", "train"), identity, [stream])
    drawn = torch.randn(16, TOKENS, CHANNELS).half()
    with (folder / "flat").open("wb") as flat:
        for shard in store.todo():
            writer = store.writer(stream.name, shard)
            for image in store.file(stream.name, shard).images:
                writer.add(drawn[image % 16])
                flat.write(drawn[image % 16].numpy().data)
            writer.finish()
    shape = (pictures, TOKENS, CHANNELS)
    source = StoredSource(folder, "random", "net", "train", 150, 6)
    return source, np.memmap(folder / "flat", np.float16, "c", shape=shape)


def ceiling(flat: np.memmap, epoch: int) -> Iterator[torch.Tensor]:
    """Whole pictures of one mapped file, the same window and batch, one reused output."""
    generator = torch.Generator().manual_seed(epoch)
    x = torch.from_numpy(flat)
    window = torch.empty(WINDOW, CHANNELS, dtype=torch.float16)
    out = torch.empty(BATCH, CHANNELS, dtype=torch.float16)
    for pictures in torch.randperm(len(x), generator=generator).split(WINDOW // TOKENS):
        held = window[: len(pictures) * TOKENS]
        torch.index_select(x, 0, pictures, out=held.view(-1, TOKENS, CHANNELS))
        for batch in torch.randperm(len(held), generator=generator).split(BATCH):
            yield torch.index_select(held, 0, batch, out=out[: len(batch)])


def rate(batches: Iterator[torch.Tensor]) -> float:
    """Tokens a second over an epoch."""
    start, tokens = time.perf_counter(), 0
    for batch in batches:
        tokens += len(batch)
    return tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1280, help="1 MB each")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        source, flat = write(Path(folder), args.pictures)
        pool = StoredPool(source, range(args.pictures), "concat", 64, WINDOW)
        loader = TokenLoader(pool, BATCH, WINDOW, seed=0)
        rate(ceiling(flat, 0))  # warms the page cache
        before, peak = anonymous_megabytes(), 0.0
        for _ in loader:  # maps the shards and verifies their checksums
            peak = max(peak, anonymous_megabytes() - before)
        pairs = [(rate(ceiling(flat, i)), rate(iter(loader))) for i in range(args.repeats)]
    plain, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{args.pictures} pictures of {CHANNELS} × {SIDE} × {SIDE} fp16, batch {BATCH}, one core")
    print(f"one plain memory map  {plain / 1e6:6.2f} M tokens/s")
    print(f"the store             {ours / 1e6:6.2f} M tokens/s")
    print(f"ratio                 {ratio:6.2f}   (target ≥ 0.80)")
    print(f"anonymous memory      {peak:6.0f} MB above the baseline (target ≤ 400)")


if __name__ == "__main__":
    main()
