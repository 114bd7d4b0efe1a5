"""Linear heads learned again from kept features against learning them from the network at work.

Three timesteps by every block of the 2.2M DDAE network at 32 × 32, with random weights, random
pictures with a class, batches of 128, flip and crop; an epoch and its validation. Seconds are those
of the processor, one thread. Target: ≥ 100 ×.
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

from diffdict.cli.paths import folder
from diffdict.data.npz import NpzDataset
from diffdict.features.noise import Noise
from diffdict.features.probe_images import ProbeImages
from diffdict.features.recorded_network import open_network
from diffdict.tasks.linear_probe import LinearProbe

CLASSES, TIMESTEPS = 10, [1, 11, 21]


def network() -> dict:
    """The config of the small network, its weights as they begin."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(folder("conf"), version_base="1.3"):
        words = ["backbone=ddae_small", "dataset.image_size=32", "backbone.checkpoint=null"]
        return OmegaConf.to_container(compose("train", words).backbone, resolve=True)


def seconds(place: Path, config: dict) -> tuple[float, int]:
    """Of a fit, and how many heads it had; with nothing that is made once and for all."""
    torch.manual_seed(0)
    dataset = partial(NpzDataset, "random", str(place / "set"), num_classes=CLASSES)
    data = ProbeImages(dataset, batch_size=128, flip=True, crop_padding=4, drop_last=False)
    facts = data.facts
    known = {key: facts[key] for key in ("num_classes", "class_names", "target")}
    net = open_network(config, True, str(place / "kept"))
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    asked = {"timestep": TIMESTEPS, "block": "all", "noise": Noise(shared=False)}
    task = LinearProbe(net, adam, **known, **asked)
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False
    )
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **quiet)
    start = time.process_time()
    trainer.fit(task, datamodule=data)
    return time.process_time() - start, len(task.cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1280)
    pictures = parser.parse_args().pictures
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder_of_run:
        place = Path(folder_of_run)
        (place / "set").mkdir()
        for split, count in (("train", pictures), ("test", 1)):
            images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            labels = np.arange(count) % CLASSES
            np.savez(place / "set" / f"{split}.npz", images=images, labels=labels)
        config = network()
        live, cells = seconds(place, config)
        kept, _ = seconds(place, config)
    print(f"{cells} heads, an epoch of {pictures} pictures")
    print(f"  live, and kept        {live:7.2f} s")
    print(f"  from kept features    {kept:7.2f} s, ratio {live / kept:.0f}   (target ≥ 100)")


if __name__ == "__main__":
    main()
