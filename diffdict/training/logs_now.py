"""Which training steps are logged: one answer for every task."""

import pytorch_lightning as pl


def logs_now(trainer: pl.Trainer, step: int) -> bool:
    """Whether `step`, counted from 0, ends a round of `log_every_n_steps`; 0 logs none."""
    every = trainer.log_every_n_steps
    return every > 0 and (step + 1) % every == 0
