"""What dropout leaves out of a training step: the same for a resumed run."""

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import nn

from diffdict.seeds import entropy
from diffdict.training.draws import DROPOUT


def seed_dropout(parts: Iterable[nn.Module], trainer: pl.Trainer, seed: int) -> None:
    """It belongs to (seed, batch, rank); nothing is seeded where these parts drop nothing."""
    modules = (module for part in parts for module in part.modules())
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules):
        batches = trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(entropy(seed, DROPOUT, batches, trainer.global_rank))
