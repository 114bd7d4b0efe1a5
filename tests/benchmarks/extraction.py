"""extract.py: predict, store and fsync, against the early-stopped forward passes alone."""

import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.data.base import Pictures
from diffdict.data.toy_faces import ToyFaces
from diffdict.features.extraction.pictures import ExtractionPictures
from diffdict.features.extraction.writer import FeatureWriter
from diffdict.features.noise import Noise, noised_features
from diffdict.tasks.features import Features

PICTURES, BATCH, BLOCKS, REPEATS = 128, 8, [3, 5, 6], 3


class Drawn(Pictures):
    """Toy faces kept in memory, so that drawing them is nobody's time."""

    def __init__(self, split: str) -> None:
        faces = ToyFaces(split, train_pictures=PICTURES)
        self.__dict__.update(vars(faces) | {"labelled": True, "ignore_label": None})
        self.fingerprint, self.samples = faces.fingerprint, list(faces)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return self.samples[index]


class Clock(pl.Callback):
    """From the first batch to the last byte on disk."""

    def on_predict_start(self, trainer, pl_module):
        self.began = time.perf_counter()

    def teardown(self, trainer, pl_module, stage):
        self.seconds = time.perf_counter() - self.began


def extraction(net: GuidedUNet, pictures: ExtractionPictures) -> float:
    clock = Clock()
    pictures.chunks.clear()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[FeatureWriter(Path(folder)), clock],
        )
        trainer.predict(Features(net, 50, BLOCKS, Noise()), pictures, return_predictions=False)
    return clock.seconds


def forward(net: GuidedUNet, pictures: ExtractionPictures) -> float:
    images = torch.stack([sample["image"] for sample in pictures.splits["train"].samples])
    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, PICTURES, BATCH):
            noised_features(net, images[start : start + BATCH], [], 50, BLOCKS, Noise())
    return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    net = GuidedUNet(64, 32, 1, "1,2,2,3", "16,8", num_head_channels=32).eval()
    pictures = ExtractionPictures(Drawn, BATCH, split="train")
    forward(net, pictures)
    ours, alone = [], []
    for _ in range(REPEATS):
        alone.append(forward(net, pictures))
        ours.append(extraction(net, pictures))
    ratio = statistics.median(a / o for a, o in zip(alone, ours, strict=True))
    rates = [PICTURES / statistics.median(times) for times in (ours, alone)]
    print(
        f"extraction {rates[0]:.1f} pictures/s, forward alone {rates[1]:.1f}: "
        f"{ratio:.2f} of it (goal 0.90)"
    )


if __name__ == "__main__":
    main()
