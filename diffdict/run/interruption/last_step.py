"""The checkpoint callback of our runs: its last checkpoint is always of the last step."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class KeepLastStep(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which also saves when a training ends between checkpoints."""

    begun = False  # whether this sitting has come to train

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on there is something to lose."""
        super().on_train_start(trainer, pl_module)
        self.begun = True

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Saves what was learned; a run that is refused before it trains leaves nothing."""
        if self.begun:
            super().on_exception(trainer, pl_module, exception)

    @property
    def state_key(self) -> str:
        """Lightning's own key, under which older runs saved the callback's state."""
        name, lightning_name = type(self).__qualname__, ModelCheckpoint.__qualname__
        return lightning_name + super().state_key.removeprefix(name)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last step, but not as one of the best, whose figure is of an earlier step."""
        saved = self._last_checkpoint_saved and self._last_global_step_saved == trainer.global_step
        if not self.save_last or trainer.fast_dev_run or saved:
            return
        figures = self._monitor_candidates(trainer)
        if self.monitor is None:
            self._save_topk_checkpoint(trainer, figures)
        self._save_last_checkpoint(trainer, figures)
