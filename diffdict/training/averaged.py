"""A training of denoising networks that keeps a running average: rate, steps, figures, ends."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.errors import UserError
from diffdict.training.average import AVERAGES, average_decay, update_average
from diffdict.training.dropout import seed_dropout
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import stop_too_fast
from diffdict.training.schedule import check_steps, make_optimizer


class LossMeans:
    """Losses by quarter of the process, and pictures a second, since the last flush."""

    def __init__(self, device: torch.device | str) -> None:
        self.sums, self.counts = torch.zeros(2, 4, device=device)
        self.pictures = 0
        self.since = time.perf_counter()

    def add(self, losses: Float[Tensor, " batch"], quarters: Int[Tensor, " batch"]) -> None:
        """One batch; everything stays on the device."""
        self.sums.index_add_(0, quarters, losses.float())
        self.counts.index_add_(0, quarters, torch.ones_like(losses, dtype=torch.float32))
        self.count(len(losses))

    def count(self, pictures: int) -> None:
        """So many more; where losses have no quarter that is all."""
        self.pictures += pictures

    def flush(self, ranks: int) -> dict[str, float]:
        """The means of the quarters that were met and the rate; then everything from zero."""
        sums, counts = self.sums.tolist(), self.counts.tolist()
        rate = ranks * self.pictures / (time.perf_counter() - self.since)
        self.__init__(self.sums.device)
        met = {
            f"loss_q{q + 1}": s / n for q, (s, n) in enumerate(zip(sums, counts, strict=True)) if n
        }
        return met | {"images_per_s": rate}


class AveragedTraining(pl.LightningModule):
    """What trainings share whose learning parts are each followed by an average."""

    def __init__(
        self,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        ema_decay: float,
        ema_rule: str,
        warmup_steps: int,
        anneal_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        if ema_rule not in AVERAGES:
            raise UserError(f"ema_rule is one of {', '.join(AVERAGES)}, got {ema_rule!r}")
        if not 0 <= ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {ema_decay}. Try 0.999 or 0.9999.")
        check_steps(warmup_steps=warmup_steps, anneal_steps=anneal_steps)
        self.optimizer, self.seed = optimizer, seed
        self.ema_decay, self.ema_rule = ema_decay, ema_rule
        self.warmup_steps, self.anneal_steps = warmup_steps, anneal_steps
        self._window = LossMeans("cpu")

    @abstractmethod
    def learning(self) -> list[nn.Module]:
        """The parts that the optimizer moves."""

    @abstractmethod
    def averages(self) -> list[nn.Module]:
        """Their averages, in the same order."""

    def seed_dropout(self) -> None:
        """What dropout leaves out belongs to (seed, batch, rank); nothing where there is none."""
        seed_dropout(self.learning(), self.trainer, self.seed)

    def on_train_start(self) -> None:
        """The clock starts with the first batch, not with the process."""
        self._window = LossMeans(self.device)

    def on_validation_end(self) -> None:
        """Restarts the throughput clock after validation."""
        self._window = LossMeans(self.device)

    def optimizer_step(self, *args, **kwargs) -> None:
        """A step of the optimizer and one of the averages, before any callback can save either."""
        super().optimizer_step(*args, **kwargs)
        decay = average_decay(self.ema_decay, self.global_step, self.ema_rule)
        for average, moving in zip(self.averages(), self.learning(), strict=True):
            update_average(average, moving, decay)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The gradient's norm before clipping, and what the window since the last log has seen."""
        if not logs_now(self.trainer, self.global_step):
            return
        parameters = (p for part in self.learning() for p in part.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.log("train/grad_norm", nn.utils.get_total_norm(gradients))
        window = self._window.flush(self.trainer.world_size)
        self.log("train/images_per_s", window.pop("images_per_s"), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in window.items()})

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Nothing that is no number is ever saved."""
        parts = (*self.learning(), *self.averages())
        if not all(bool(x.isfinite().all()) for part in parts for x in part.parameters()):
            what = f"The weights are no numbers after step {self.global_step}"
            stop_too_fast(self.trainer, what, self.warmup_steps)

    def configure_optimizers(self) -> dict:
        """The optimizer over the moving weights; warm-up, then constant or linear to zero."""
        parameters = [p for part in self.learning() for p in part.parameters()]
        optimizer = make_optimizer(self.optimizer, parameters)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The share of the learning rate at an optimizer step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * max(0.0, 1 - step / self.anneal_steps) if self.anneal_steps else warm
