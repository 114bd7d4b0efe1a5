"""Which epoch a training is in, the same for a resumed run."""

import pytorch_lightning as pl


def current_epoch(trainer: pl.Trainer) -> int:
    """How often the stream of pictures has come round: known from the batches trained on."""
    return trainer.fit_loop.epoch_loop.total_batch_idx // len(trainer.train_dataloader)
