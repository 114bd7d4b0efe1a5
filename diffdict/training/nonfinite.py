"""What is said, and what is kept, when a training meets what is no number."""

from collections.abc import Sequence
from typing import NoReturn

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffdict.errors import UserError


def first_broken(seen: Sequence[tuple[int, Tensor]]) -> tuple[int, int] | None:
    """The first step at which a loss was no number, and whose; from what each step noted."""
    if not seen:
        return None
    broken = torch.stack([marks for _, marks in seen]).cpu()
    if not broken.any():
        return None
    row, column = broken.nonzero()[0].tolist()
    return seen[row][0], column


def stop(trainer: pl.Trainer, what: str) -> NoReturn:
    """Ends the training; the last good checkpoint stays."""
    for keeper in trainer.checkpoint_callbacks:
        keeper.save_on_exception = False
    last = getattr(trainer.checkpoint_callback, "last_model_path", "")
    outcome = f"the last good checkpoint is {last}" if last else "no checkpoint was saved yet"
    raise UserError(f"{what}; {outcome}.")


def stop_too_fast(trainer: pl.Trainer, what: str, warmup_steps: int) -> NoReturn:
    """With the likely cause, where all went well at first."""
    rate = trainer.optimizers[0].param_groups[0]["initial_lr"]
    stop(
        trainer,
        f"{what}, the rate is probably too high: try model.optimizer.lr={rate / 10:g} (it was "
        f"{rate:g}) or a longer model.warmup_steps (it was {warmup_steps})",
    )
