"""A training run of a dictionary from a store against the same steps on one resident batch.

The real task in a real trainer, both times: once its batches come from the store's shards, shuffled
(stored fp16, 131,072 tokens at once), once they are one batch that never leaves the device. Timed
are as many steps as an epoch has, with the turn of an epoch among them; shards are in the page
cache, their checksums verified before. Expected: ratio ≥ 0.90.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffdict.features.noise import Noise
from diffdict.features.store import (
    FeatureStore,
    Identity,
    pictures_per_shard,
    store_path,
)
from diffdict.features.store.shards import Stream
from diffdict.features.tokens import TokenDataModule
from diffdict.sae.relu import Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK
from diffdict.tasks.sae import Dictionaries

SIDE, WARM = 32, 4  # steps before the clock starts
VARIANTS = {
    "topk": partial(TopK, k=32),
    "batch_topk": partial(BatchTopK, k=32),
    "matryoshka": partial(Matryoshka, k=32),
    "relu": partial(Relu, sparsity=1e-3),
}


class Resident:
    """One batch again and again, an epoch as long as another loader's."""

    def __init__(self, batch: Tensor, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        return (self.batch for _ in range(self.count))


class Clock(pl.Callback):
    """Seconds from the end of the warm-up to the end of the training."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        if trainer.global_step in (WARM, trainer.max_steps):
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if trainer.global_step == WARM:
                self.start = now
            self.seconds = now - self.start


def write(folder: Path, pictures: int, d_in: int) -> None:
    """A store of random tokens, some pictures of them alike."""
    stream, k = Stream(d_in, SIDE, SIDE, "fp16", 150, 6), pictures_per_shard(pictures)
    facts = ("random", "0", "train", pictures, 256, 0, [], None, "net", "0", Noise().facts())
    identity = Identity(*facts, "fp32", k)
    store = FeatureStore.create(store_path(folder, "random", "net", "train"), identity, [stream])
    drawn = torch.randn(16, SIDE * SIDE, d_in).half()
    for shard in store.todo():
        writer = store.writer(stream.name, shard)
        for image in store.file(stream.name, shard).images:
            writer.add(drawn[image % 16])
        writer.finish()


def tokens_a_second(args: argparse.Namespace, data: TokenDataModule, resident: bool) -> float:
    """The rate of one training, from its own fresh weights."""
    torch.manual_seed(0)
    facts, steps = data.facts, len(data.train_dataloader())
    sae = partial(VARIANTS[args.sae], latents=args.latents)
    adam = partial(torch.optim.Adam, lr=3e-4, fused=True)
    task = Dictionaries(sae, adam, facts["d_in"], facts["mean"], facts["scale"])
    clock = Clock()
    trainer = pl.Trainer(
        accelerator=args.device,
        devices=1,
        precision=args.precision,
        max_steps=WARM + steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if resident:
        batch = next(iter(data.train_dataloader())).clone().to(trainer.strategy.root_device)
        trainer.fit(task, Resident(batch, steps))
    else:
        trainer.fit(task, data)
    return steps * args.batch / clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sae", choices=VARIANTS, default="topk")
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--latents", type=int, default=10_240)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--pictures", type=int, default=256, help="1 MB each at d = 512")
    parser.add_argument("--precision", default="bf16-mixed", help="bf16-mixed or 32-true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    names = {"dataset_name": "random", "backbone_name": "net", "timestep": 150, "block": 6}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.pictures, args.d)
        pairs = []
        for i in range(args.repeats):
            data = TokenDataModule(
                root=folder, batch_size=args.batch, val_fraction=0.0, seed=i, **names
            )
            order = (True, False) if i % 2 else (False, True)  # neither is always the first
            rates = {resident: tokens_a_second(args, data, resident) for resident in order}
            pairs.append((rates[True], rates[False]))
    plain, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{args.sae}, {args.d} × {args.latents}, batch {args.batch}, {args.precision}")
    print(f"one resident batch  {plain:12,.0f} tokens/s on {args.device}")
    print(f"from the store      {ours:12,.0f} tokens/s")
    print(f"ratio               {ratio:12.2f}   (target ≥ 0.90)")


if __name__ == "__main__":
    main()
