"""Repairs Lightning's counters on resume: epochs have the same length and number as without."""

from collections.abc import Callable, Mapping

import pytorch_lightning as pl

EPOCHS, BATCHES = "epoch_progress", "epoch_loop.batch_progress"
VALIDATION = "epoch_loop.val_loop.batch_progress"  # batches of the last validation
ProgressCounts = Mapping[str, int]
AGAIN = {"ready": 1, "started": 1, "processed": 0, "completed": 0}  # makes Lightning validate


class ExactCounters(pl.Callback):
    """Repairs Lightning's counters in checkpoints, wherever in an epoch they were written.

    On resume Lightning (a) counts an interrupted epoch as finished, (b) starts an empty epoch
    after a finished one, (c) skips an unfinished validation. This fixes all three.
    """

    def __init__(self) -> None:
        self._ended = False  # whether the checkpoint was written at the end of an epoch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Does not count an interrupted epoch as finished."""
        done = mended(checkpoint["loops"]["fit_loop"])[EPOCHS]["current"]["completed"]
        checkpoint["epoch"] = min(checkpoint["epoch"], done)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Repairs the counters before the trainer reads them."""
        loops = mended(checkpoint["loops"]["fit_loop"])
        checkpoint["loops"] = {**checkpoint["loops"], "fit_loop": loops}
        epochs = loops[EPOCHS]["current"]
        self._ended = epochs["ready"] == epochs["completed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Repairs what depends on the length of an epoch, which is known only now."""
        fit = trainer.fit_loop
        if not fit.is_resuming:
            return
        batches, judging = fit.epoch_loop, fit.epoch_loop.val_loop
        if self._ended:  # the next one is like any other
            fit._restarting = batches.restarting = False
        elif batches.batch_progress.current.completed == trainer.num_training_batches and not (
            judging.restarted_mid_evaluation and batches._should_check_val_fx(fit._data_fetcher)
        ):  # neither a batch is left nor a validation: on to the epoch's end
            judging._has_run = True
            batches._batches_that_stepped = trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Logs figures under the number of steps before this one."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resets a flag that Lightning leaves set if only the epoch's end was left."""
        trainer.fit_loop.epoch_loop.restarting = False


def mended(loops: Mapping) -> dict:
    """The loops' state, repaired: in the middle of an epoch or at its end, nothing in between."""
    epochs, batches, validation = loops[EPOCHS], loops[BATCHES], loops[VALIDATION]
    if epochs["current"]["processed"] == epochs["current"]["started"]:
        epochs = _each(epochs, _all_done if batches["is_last_batch"] else _last_undone)
    waits = AGAIN if _validation_waits(batches["current"], validation) else dict.fromkeys(AGAIN, 0)
    validation = _each(validation, lambda _: waits)
    return {**loops, EPOCHS: epochs, BATCHES: _each(batches, _done), VALIDATION: validation}


def _validation_waits(batch: ProgressCounts, validation: Mapping) -> bool:
    """Whether the validation after this batch was stopped, or had not begun."""
    counts = validation["current"]
    whole = validation["is_last_batch"] and counts["completed"] == counts["ready"]
    stopped = counts["ready"] > 0 and not whole
    begins = batch["completed"] < batch["processed"]
    return batch["processed"] == batch["ready"] and (begins or stopped)


def _each(progress: Mapping, change: Callable[[ProgressCounts], ProgressCounts]) -> dict:
    return {**progress, "total": change(progress["total"]), "current": change(progress["current"])}


def _all_done(counts: ProgressCounts) -> ProgressCounts:
    return dict.fromkeys(counts, counts["processed"])


def _last_undone(counts: ProgressCounts) -> ProgressCounts:
    return {**counts, "processed": counts["started"] - 1, "completed": counts["started"] - 1}


def _done(counts: ProgressCounts) -> ProgressCounts:
    return {**counts, "completed": counts["processed"]}
