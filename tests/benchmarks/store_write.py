"""Writing maps into a store (checked, hashed, fsynced) against raw write + fsync of the bytes.

Maps come channel-last, as from extraction, whose networks work so; then channel-first, to be
transposed. A fast disk shows the work of the processor, a slow one hides it.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from diffdict.data.toy_faces import ToyFaces
from diffdict.features.extraction.writer import tokens
from diffdict.features.store import FeatureStore, Identity, pictures_per_shard
from diffdict.features.store.shards import Stream

PICTURES, BATCH, REPEATS = 256, 16, 5
STREAM = Stream(512, 32, 32, "fp16", 50, 6)  # 1 MB a picture


def identity() -> Identity:
    facts = ("toy_faces", "0", "train", PICTURES, 256, 0, [], None, "net", "0", None, "fp32")
    return Identity(*facts, pictures_per_shard(PICTURES))


def write_store(folder: Path, maps: torch.Tensor) -> None:
    """All pictures through the same steps as an extraction's."""
    store, pictures = FeatureStore.create(folder, identity(), [STREAM]), ToyFaces()
    for shard in range(store.shards):
        writer = store.writer(STREAM.name, shard)
        images = writer.shard.images
        for start in range(images.start, images.stop, BATCH):
            index = torch.arange(start, min(start + BATCH, images.stop))
            for row in tokens(maps[: len(index)], STREAM, index, pictures):
                writer.add(row)
        writer.finish()


def write_raw(folder: Path, maps: torch.Tensor) -> None:
    """The same number of bytes in one file, batch by batch, one fsync."""
    folder.mkdir()
    data = maps.half().numpy().tobytes()
    with (folder / "raw").open("wb", buffering=0) as file:
        for _ in range(PICTURES // BATCH):
            file.write(data)
        os.fsync(file.fileno())


def seconds(write, maps: torch.Tensor) -> float:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        began = time.perf_counter()
        write(Path(folder) / "written", maps)
        return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    first = torch.randn(BATCH, STREAM.channels, STREAM.height, STREAM.width).half()
    maps = {"channel-last": first.to(memory_format=torch.channels_last), "channel-first": first}
    times: dict[str, list[float]] = {"raw": [], **{order: [] for order in maps}}
    for _ in range(REPEATS):
        times["raw"].append(seconds(write_raw, first))
        for order, given in maps.items():
            times[order].append(seconds(write_store, given))
    megabytes = PICTURES * STREAM.picture_bytes / 1e6
    print(f"raw {megabytes / statistics.median(times['raw']):.0f} MB/s")
    for order in maps:
        ratio = statistics.median(r / o for r, o in zip(times["raw"], times[order], strict=True))
        rate = megabytes / statistics.median(times[order])
        print(f"store, {order} maps {rate:.0f} MB/s: {ratio:.2f} of raw (goal 0.60)")


if __name__ == "__main__":
    main()
