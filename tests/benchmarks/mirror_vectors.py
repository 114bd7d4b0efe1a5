"""Shows the published probe of attributes from codes made once a mirror image, against every epoch.

The published encoder at 64 pixels, random pictures with 40 attributes, 15 epochs in batches of 128,
flips; heads and validation included. Processor time, one thread.
"""

import sys
import time
import warnings
from functools import partial

import pytorch_lightning as pl
import torch

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.data.attributes import Attribute
from diffdict.data.base import Pictures, PictureSample
from diffdict.features.probe_images import ProbeImages
from diffdict.run.interruption.counters import ExactCounters
from diffdict.tasks.linear_probe import LinearProbe

EPOCHS, BATCH, GOAL = 15, 128, 6


class Drawn(Pictures):
    """Random pictures; a tenth as many to choose by."""

    name, image_size = "drawn", 64
    attributes = tuple(Attribute(f"a{i}", "binary", "same") for i in range(40))

    def __init__(self, split: str, pictures: int) -> None:
        self.split, self.fingerprint = split, f"drawn {split} {pictures}"
        generator = torch.Generator().manual_seed(len(split))
        number = pictures if split == "train" else pictures // 10
        self.images = torch.rand(number, 3, 64, 64, generator=generator) * 2 - 1
        self.truth = (torch.rand(number, 40, generator=generator) > 0.5).float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> PictureSample:
        return {"image": self.images[index], **self.labels(index)}

    def labels(self, index: int) -> PictureSample:
        return {"attributes": self.truth[index].clone(), "index": index}


def learn(pictures: int, **options: int) -> tuple[LinearProbe, float]:
    """The probe, and the seconds that it took."""
    data = ProbeImages(
        partial(Drawn, pictures=pictures),
        target="attributes",
        batch_size=BATCH,
        flip=True,
        drop_last=False,
    )
    keys = ("num_classes", "class_names", "target", "attributes")
    facts = {key: data.facts[key] for key in keys}
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=1e-3)
    probe = LinearProbe(CodeEncoder(64), adam, **facts, block="code", decay="none")
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=EPOCHS,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ExactCounters()],
        **options,
    )
    began = time.process_time()
    trainer.fit(probe, data)
    return probe, time.process_time() - began


def main(pictures: int = 2560) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    once, ours = learn(pictures)
    batches = -(-pictures // BATCH)  # a limit, though of all: every epoch is looked at again
    again, theirs = learn(pictures, limit_train_batches=batches)
    pairs = zip(once.heads.parameters(), again.heads.parameters(), strict=True)
    apart = max(float((a - b).abs().max()) for a, b in pairs)
    print(f"encoding every epoch / each mirror image once: {theirs / ours:.1f} (goal {GOAL})")
    print(f"their weights differ by {apart:.1e} at most")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
