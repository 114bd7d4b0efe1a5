"""Random pixels gathered from native maps against upsampling all first, as published; one core.

30 pictures of the published setting: timesteps 50, 150, 250 of blocks 5, 6, 7, 8, 12 of the LSUN
network at 256 px, 8448 channels a pixel. Upsampling is given all it can have: float32 maps that lie
as it reads them, no concatenation, and every pixel of the picture is used. Its first figure
(the baseline) ends with rows of pixels, which a classifier reads, its second with maps alone.
Seconds are those of the CPU, so that a busy machine does not count.
Target: held in ≤ 1.6 GB, 1/40 of the upsampled; ratio of pixels per second ≥ 1.
"""

import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffdict.bilinear.maps import NativeMaps
from diffdict.features.pixels.data_module import PixelLoader

BLOCKS = [(1024, 32), (512, 32), (512, 32), (512, 64), (256, 128)]  # channels, side
PICTURES, SIZE, BATCH, BATCHES, REPEATS = 30, 256, 64, 64, 3


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def hold() -> NativeMaps:
    """30 pictures of noise: one drawn, the others copies of it."""
    widths, sides = zip(*BLOCKS * 3, strict=True)
    grids = [(side, side) for side in sides]
    maps = NativeMaps.empty(PICTURES, widths, grids, (SIZE, SIZE), torch.float16)
    for room in maps.maps:
        drawn = torch.randn(room.shape[1:]).half()
        for picture in room:
            picture.copy_(drawn)
    return maps


def upsampled_rates(images: list[Tensor]) -> tuple[float, float]:
    """Pixels a second when one timestep of a picture is upsampled: as maps, and as rows."""
    upsampling = writing = 0.0
    for image in images:
        begin = time.process_time()
        large = F.interpolate(image, (SIZE, SIZE), mode="bilinear")
        middle = time.process_time()
        large[0].flatten(1).T.contiguous()
        upsampling, writing = upsampling + middle - begin, writing + time.process_time() - middle
    pixels = SIZE * SIZE / 3  # all three timesteps cost what one costs
    return pixels / upsampling, pixels / (upsampling + writing)


def gathered_rate(loader: PixelLoader, epoch: int) -> float:
    """Pixels a second in random batches from all pictures."""
    batches = loader.batches(epoch, 0)
    next(batches)
    start = time.process_time()
    for _ in range(BATCHES):
        next(batches)
    return BATCH * BATCHES / (time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    before = anonymous_bytes()
    maps = hold()
    labels = torch.zeros(PICTURES, SIZE, SIZE, dtype=torch.int64)
    loader = PixelLoader(maps, labels, batch_size=BATCH)
    gathered_rate(loader, 0)
    held = anonymous_bytes() - before
    images = [x.float() for x in maps.picture(0).images()[: len(BLOCKS)]]
    images = [image.contiguous() for image in images]
    runs = [(*upsampled_rates(images), gathered_rate(loader, i)) for i in range(REPEATS)]
    as_maps, plain, ours = (statistics.median(column) for column in zip(*runs, strict=True))
    ratio = statistics.median(c / b for _, b, c in runs)
    whole = PICTURES * SIZE * SIZE * maps.channels * 4
    print(f"{PICTURES} pictures at {SIZE}², {maps.channels} channels a pixel, batch {BATCH}")
    print(f"upsample everything  {plain:8.0f} pixels/s, {whole / 1e9:6.2f} GB")
    print(f"  as maps, not rows  {as_maps:8.0f} pixels/s")
    print(f"gather               {ours:8.0f} pixels/s, {held / 1e9:6.2f} GB")
    print(f"ratio of speed       {ratio:8.2f}   (target ≥ 1)")
    print(f"ratio of memory      {f'1/{whole / held:.0f}':>8}   (target 1/40; held ≤ 1.6 GB)")


if __name__ == "__main__":
    main()
