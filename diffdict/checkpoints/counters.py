"""The trainer's own counters after a resume: epochs are as long, and as many, as without one."""

from collections.abc import Callable, Mapping

import pytorch_lightning as pl

EPOCHS, BATCHES = "epoch_progress", "epoch_loop.batch_progress"
JUDGED = "epoch_loop.val_loop.batch_progress"  # batches of the last validation
Counts = Mapping[str, int]
AGAIN = {"ready": 1, "started": 1, "processed": 0, "completed": 0}  # what has Lightning validate


class ExactCounters(pl.Callback):
    """Mends what Lightning's counters make of a checkpoint, wherever in an epoch it was written.

    By themselves they take an epoch that was left in its midst for a whole one, begin one without
    batches after one that ended, and leave out a validation that was stopped or never begun.
    """

    def __init__(self) -> None:
        self._ended = False  # the checkpoint is of the very end of an epoch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """An epoch that a training left in its midst is none that it has come through."""
        done = mended(checkpoint["loops"]["fit_loop"])[EPOCHS]["current"]["completed"]
        checkpoint["epoch"] = min(checkpoint["epoch"], done)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Before the trainer reads them."""
        loops = mended(checkpoint["loops"]["fit_loop"])
        checkpoint["loops"] = {**checkpoint["loops"], "fit_loop": loops}
        epochs = loops[EPOCHS]["current"]
        self._ended = epochs["ready"] == epochs["completed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What hangs on the length of an epoch, which is known by now."""
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
        """Under which step figures are logged: those before this one."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch that had only its end left has forgotten this."""
        trainer.fit_loop.epoch_loop.restarting = False


def mended(loops: Mapping) -> dict:
    """The state of a fit's loops as an epoch's midst or its very end, and nothing between."""
    epochs, batches, judged = loops[EPOCHS], loops[BATCHES], loops[JUDGED]
    if epochs["current"]["processed"] == epochs["current"]["started"]:
        epochs = _each(epochs, _all_done if batches["is_last_batch"] else _last_undone)
    waits = AGAIN if _validation_waits(batches["current"], judged) else dict.fromkeys(AGAIN, 0)
    mend = {EPOCHS: epochs, BATCHES: _each(batches, _done), JUDGED: _each(judged, lambda _: waits)}
    return {**loops, **mend}


def _validation_waits(batch: Counts, judged: Mapping) -> bool:
    """Whether the one that may follow this batch was stopped, or had not begun."""
    seen = judged["current"]
    whole = judged["is_last_batch"] and seen["completed"] == seen["ready"]
    stopped = seen["ready"] > 0 and not whole
    begins = batch["completed"] < batch["processed"]
    return batch["processed"] == batch["ready"] and (begins or stopped)


def _each(progress: Mapping, change: Callable[[Counts], Counts]) -> dict:
    return {**progress, "total": change(progress["total"]), "current": change(progress["current"])}


def _all_done(counts: Counts) -> Counts:
    return dict.fromkeys(counts, counts["processed"])


def _last_undone(counts: Counts) -> Counts:
    return {**counts, "processed": counts["started"] - 1, "completed": counts["started"] - 1}


def _done(counts: Counts) -> Counts:
    return {**counts, "completed": counts["processed"]}
