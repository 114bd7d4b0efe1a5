"""DiT's linear probe of 30 epochs with its features kept, against encoding and passing every epoch.

A DiT of XL/2's depth and a small autoencoder with random weights, to block 13 of 28; so many copies
of the training pictures come round. Seconds are those of the processor, one thread. Target: ≥ 10 ×.
"""

import argparse
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from diffdict.data.npz import NpzDataset
from diffdict.features.noise import Noise
from diffdict.features.probe_images import ProbeImages
from diffdict.features.recorded_network import open_network
from diffdict.tasks.linear_probe import LinearProbe

CLASSES, SIDE, BLOCK, TIMESTEP = 10, 64, 13, 121


def write_autoencoder(folder: Path) -> None:
    """One whose latents are an eighth as wide as the pictures."""
    from diffusers import AutoencoderKL

    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[16, 32, 32, 32],
        norm_num_groups=8,
    ).save_pretrained(folder)


def seconds(place: Path, keep: bool, epochs: int, copies: int | None) -> float:
    """Of a probe's training."""
    torch.manual_seed(0)
    dataset = partial(NpzDataset, "random", str(place / "set"), num_classes=CLASSES)
    data = ProbeImages(
        dataset, batch_size=64, flip=True, crop_padding=8, drop_last=False, copies=copies
    )
    known = {key: data.facts[key] for key in ("num_classes", "class_names", "target")}
    config = {
        "_target_": "diffdict.backbones.dit.DiT",
        "input_size": SIDE // 8,
        "hidden_size": 192,
        "num_heads": 3,
        "depth": 28,
        "vae": str(place / "vae"),
    }
    net = open_network(config, keep, str(place / "kept"))
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    asked = {"timestep": TIMESTEP, "block": BLOCK, "noise": Noise(shared=False)}
    task = LinearProbe(net, adam, **known, **asked)
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False
    )
    quiet |= {"num_sanity_val_steps": 0, "limit_val_batches": 0}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=epochs, **quiet)
    start = time.process_time()
    trainer.fit(task, datamodule=data)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--copies", type=int, default=2)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "set").mkdir()
        for split, count in (("train", asked.pictures), ("test", 1)):
            images = generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
            labels = np.arange(count) % CLASSES
            np.savez(place / "set" / f"{split}.npz", images=images, labels=labels)
        write_autoencoder(place / "vae")
        every = asked.epochs * seconds(place, False, 1, None)  # each as long as the first
        once = seconds(place, True, asked.epochs, asked.copies)
        again = seconds(place, True, asked.epochs, asked.copies)
    print(f"DiT's probe, {asked.epochs} epochs of {asked.pictures} pictures to block {BLOCK} of 28")
    print(f"  encoded and passed every epoch   {every:7.1f} s")
    print(f"  {asked.copies} copies kept, in turn             {once:7.1f} s, {every / once:.0f}×")
    print(f"  the next probe, from the same    {again:7.1f} s, {every / again:.0f}×   (≥ 10)")


if __name__ == "__main__":
    main()
