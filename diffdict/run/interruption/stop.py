"""Stops a run on a signal: between two batches, and on all ranks at the same batch."""

import math
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed import ReduceOp

from diffdict.training.logs_now import logs_now

COMPILERS = ("torch._dynamo.convert_frame", "torch._inductor.compile_fx")


class StopBetweenBatches(pl.Callback):
    """Ctrl-C and SIGTERM end the run after the current batch; a second Ctrl-C ends it at once.

    So does a SIGTERM while torch compiles: one to all processes of a job ends torch's compile
    workers, too, and the batch would wait for them forever.

    An interrupt within a batch may be swallowed by a destructor, or leave a loader's workers
    half-started, and the run would hang. An interrupt after the next batch is fetched would skip
    that batch on resume. Ranks save together, so they must stop together: they exchange the
    signal after each batch that all of them have.
    """

    def __init__(self) -> None:
        self.signal = 0  # the number of the signal; 0 for none
        self.before: Callable | int | None = None  # the handler of SIGINT that this one replaces

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replaces the handlers of SIGINT (in the main thread) and of Lightning's SIGTERM.

        Lightning's handler lets ranks notify each other wherever each of them is.
        """
        self.trainer = trainer
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)
        trainer._signal_connector._sigterm_notifier_fn = self._ask
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # one a batch: ours

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restores the handler of SIGINT."""
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Has Lightning restore SIGINT, since it does not call teardown after an exception.

        Lightning restores the handlers that it found at the start, for SIGINT the one of this
        callback, and a Ctrl-C before a sweep's next job would go to a run that is over.
        """
        if self.before is not None:
            trainer._signal_connector._original_handlers[signal.SIGINT] = self.before

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == self.signal == signal.SIGINT:
            self._end_now(number)
        if number == signal.SIGTERM and is_compiling(frame):
            again = "the same command goes on from the last checkpoint that there is"
            print(f"\nStopped by SIGTERM while torch compiled: {again}.", file=sys.stderr)
            self._end_now(number)
        self.signal = max(self.signal, number)
        self._look_after_ranks()

    def _end_now(self, number: int) -> None:
        """Ends without a checkpoint if there are several ranks, which would wait for each other.

        Or if the batch is not through, whose place in the epoch would be lost.
        """
        if self.trainer.world_size > 1 or number == signal.SIGTERM:
            if self.trainer.strategy.launcher is not None:
                self.trainer.strategy.launcher.kill(signal.SIGKILL)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise KeyboardInterrupt

    def _look_after_ranks(self) -> None:
        """Keeps Lightning from killing this process when a rank that it started is signalled."""
        launcher = self.trainer.strategy.launcher
        if processes := getattr(launcher, "procs", []):
            launcher.procs = list(processes)
            processes.clear()

    def _agreed(self) -> int:
        """The signal that any rank received; costs one small exchange if there are several."""
        return self._reduced([self.signal], ReduceOp.MAX)[0]

    def _reduced(self, numbers: list[int], op: ReduceOp) -> list[int]:
        if self.trainer.world_size == 1:
            return numbers
        tensor = torch.tensor(numbers, device=self.trainer.strategy.root_device)
        torch.distributed.all_reduce(tensor, op)
        return tensor.tolist()

    def _stop(self, number: int) -> None:
        if number:
            self._look_after_ranks()
            raise SIGTERMException(128 + number) if number == signal.SIGTERM else KeyboardInterrupt

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Stops a training here; logs the batch, which Lightning would log only afterwards."""
        if not (number := self._agreed()):
            return
        step = trainer.global_step - 1
        for logger in trainer.loggers if logs_now(trainer, step) else ():
            logger.log_metrics(trainer.logged_metrics, step=step)
        self._stop(number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops before a test or a sweep's next job."""
        self._stop(self._agreed())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Determines how many batches of each loader all ranks have."""
        counts = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        batches = [0 if trainer.sanity_checking or n == math.inf else int(n) for n in counts]
        self.shared = self._reduced(batches, ReduceOp.MIN)

    on_test_start = on_validation_start

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops a validation or test here."""
        if batch_idx < self.shared[dataloader_idx]:
            self._stop(self._agreed())

    on_test_batch_start = on_validation_batch_start

    def on_predict_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Stops a prediction, in which ranks work alone; passes the signal on to started ranks."""
        if self.signal and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)
        self._stop(self.signal)


def is_compiling(frame: FrameType | None) -> bool:
    """Whether torch.compile is at work somewhere below this frame of the main thread."""
    while frame is not None:
        if frame.f_globals.get("__name__") in COMPILERS:
            return True
        frame = frame.f_back
    return False
