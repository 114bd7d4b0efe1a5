"""The checkpoint callback of our runs: what it keeps as the last state is the last one."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class KeepLastStep(ModelCheckpoint):
    """Lightning's, and a training that ends between two checkpoints ends with one more."""

    @property
    def state_key(self) -> str:
        """As Lightning's own, under which older runs have kept its state."""
        own, theirs = type(self).__qualname__, ModelCheckpoint.__qualname__
        return theirs + super().state_key.removeprefix(own)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is kept as one of the best by a figure of another step."""
        kept = self._last_checkpoint_saved and self._last_global_step_saved == trainer.global_step
        if not self.save_last or trainer.fast_dev_run or kept:
            return
        figures = self._monitor_candidates(trainer)
        if self.monitor is None:
            self._save_topk_checkpoint(trainer, figures)
        self._save_last_checkpoint(trainer, figures)
