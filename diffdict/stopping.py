"""How a run is stopped from outside: between two batches, and by all ranks at the same one."""

import math
import signal
import threading
from types import FrameType

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed import ReduceOp


class StopBetweenBatches(pl.Callback):
    """Ctrl-C and SIGTERM end the run with the batch that it is at; Ctrl-C again, at once.

    An interrupt in the middle of a batch may be swallowed by a destructor, or leave a loader's
    workers half-made, and the run then waits for ever. Once the next batch is fetched, a training
    that goes on would pass over it. Several ranks have to leave together, for they save together:
    after each batch that all of them have, they ask each other.
    """

    def __init__(self) -> None:
        self.asked = 0  # the signal

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes over SIGINT, where this is the main thread, and what Lightning does on SIGTERM.

        Lightning's ranks tell each other from within the handler, wherever each of them is.
        """
        self.trainer, self.before = trainer, None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)
        trainer._signal_connector._sigterm_notifier_fn = self._ask
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # one a batch: ours

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives it back, unless Lightning has switched it off to end in peace."""
        if self.before is not None and signal.getsignal(signal.SIGINT) == self._ask:
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == self.asked == signal.SIGINT:
            self._end_now()
        self.asked = max(self.asked, number)
        self._look_after_ranks()

    def _end_now(self) -> None:
        """Without a checkpoint where there are several ranks: each would wait for the others."""
        if self.trainer.world_size > 1:
            if self.trainer.strategy.launcher is not None:
                self.trainer.strategy.launcher.kill(signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        raise KeyboardInterrupt

    def _look_after_ranks(self) -> None:
        """Lightning kills this process when it sees one that it started end by a signal."""
        launcher = self.trainer.strategy.launcher
        if watched := getattr(launcher, "procs", []):
            launcher.procs = list(watched)
            watched.clear()

    def _agreed(self) -> int:
        """The signal that any rank was sent; one small exchange, with one rank none."""
        return self._reduced([self.asked], ReduceOp.MAX)[0]

    def _reduced(self, numbers: list[int], op: ReduceOp) -> list[int]:
        if self.trainer.world_size == 1:
            return numbers
        found = torch.tensor(numbers, device=self.trainer.strategy.root_device)
        torch.distributed.all_reduce(found, op)
        return found.tolist()

    def _stop(self, number: int) -> None:
        if number:
            self._look_after_ranks()
            raise SIGTERMException(128 + number) if number == signal.SIGTERM else KeyboardInterrupt

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Where a training stops; Lightning would log this batch only afterwards."""
        if not (number := self._agreed()):
            return
        every = trainer.log_every_n_steps
        for logger in trainer.loggers if every and trainer.global_step % every == 0 else ():
            logger.log_metrics(trainer.logged_metrics, step=trainer.global_step - 1)
        self._stop(number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where it stops before a test, or a sweep's next job."""
        self._stop(self._agreed())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the batches of each loader that every rank has."""
        counts = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        known = [0 if trainer.sanity_checking or n == math.inf else int(n) for n in counts]
        self.shared = self._reduced(known, ReduceOp.MIN)

    on_test_start = on_validation_start

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Where all else stops that is measured."""
        if batch_idx < self.shared[dataloader_idx]:
            self._stop(self._agreed())

    on_test_batch_start = on_validation_batch_start

    def on_predict_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Where a rank stops what it does for itself alone; it tells those that it has started."""
        if self.asked and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)
        self._stop(self.asked)
