"""The optimizer, and how much of its rate and of the sparsity penalty counts at which step."""

import math
from collections.abc import Callable, Iterable

import pytorch_lightning as pl
import torch

from diffdict.errors import UserError, one_line

DECAYS: dict[str, Callable[[float], float]] = {  # of the way to the end, 0 to 1
    "none": lambda way: 1.0,
    "linear": lambda way: 1 - way,
    "cosine": lambda way: (1 + math.cos(math.pi * way)) / 2,
    "poly": lambda way: (1 - way) ** 0.9,  # Chen et al. 2017, sec. 4.1
}


def make_optimizer(
    optimizer: Callable[[Iterable], torch.optim.Optimizer], parameters: Iterable
) -> torch.optim.Optimizer:
    """The optimizer over these parameters, or a sentence about a setting that cannot be."""
    settings = getattr(optimizer, "keywords", {})
    rate = settings.get("lr", 0.0)
    if type(rate) not in (int, float) or not 0 <= rate < math.inf:
        raise UserError(f"model.optimizer.lr is a number from 0 on, got {rate}: 1e-4, say")
    try:
        return optimizer(parameters)
    except (ValueError, RuntimeError, TypeError) as error:  # fused where it is not made, say
        given = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise UserError(f"model.optimizer cannot be so ({given}): {one_line(error)}") from error


def check_steps(**steps: int) -> None:
    """Settings of the model that count optimizer steps."""
    for key, value in steps.items():
        if value < 0:
            raise UserError(f"model.{key} counts optimizer steps, got {value}: model.{key}=0")


def schedule_by_epoch(
    optimizer: torch.optim.Optimizer, trainer: pl.Trainer, decay: str, warmup_epochs: int = 0
) -> dict[str, object]:
    """The optimizer as Lightning takes it; its rate is constant within an epoch, and decays to 0.

    It rises in equal steps over `warmup_epochs`, and decays from there on as it would have from
    its last one (Xiang et al. 2023).
    """
    steps = trainer.estimated_stepping_batches
    epoch = max(1, trainer.num_training_batches // trainer.accumulate_grad_batches)
    epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else steps / epoch
    if math.isinf(epochs) and decay != "none":
        raise UserError(
            f"model.decay={decay} needs an end: say trainer.max_epochs= or trainer.max_steps=, or "
            "model.decay=none"
        )

    def share(step: int) -> float:
        at = step // epoch
        if at < warmup_epochs:
            return (at + 1) / warmup_epochs
        before = max(0, warmup_epochs - 1) / epochs
        return DECAYS[decay](min(1.0, at / epochs)) / DECAYS[decay](before)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Rates:
    """Both rise linearly in their own warm-up; the learning rate falls over the last steps."""

    def __init__(
        self,
        warmup_steps: int,
        pressure_warmup_steps: int,
        decay: str,
        decay_share: float,
        anneal_steps: int,
    ) -> None:
        """`decay_share` of the run, or of `anneal_steps` where that is not 0."""
        if decay not in DECAYS:
            raise UserError(f"model.decay is {', '.join(DECAYS)}, got {decay!r}")
        if not 0 < decay_share <= 1:
            raise UserError(
                f"model.decay_share must lie in (0, 1], got {decay_share}: 1 falls all the way"
            )
        check_steps(
            warmup_steps=warmup_steps,
            pressure_warmup_steps=pressure_warmup_steps,
            anneal_steps=anneal_steps,
        )
        self.warmup_steps, self.pressure_warmup_steps = warmup_steps, pressure_warmup_steps
        self.decay, self.share, self.anneal_steps = decay, decay_share, anneal_steps
        self.end = self.falls_from = math.inf

    def set_end(self, run: Callable[[], float]) -> None:
        """Known once the run's number of steps is; asked for only where it matters."""
        if self.decay == "none":
            return
        self.end = self.anneal_steps or run()
        self.falls_from = self.end * (1 - self.share)
        if math.isinf(self.end):
            raise UserError(
                f"model.decay={self.decay} needs an end: say trainer.max_steps=, "
                f"trainer.max_epochs= or model.anneal_steps="
            )

    def scheduled(
        self, optimizer: Callable, parameters: Iterable, trainer: pl.Trainer
    ) -> dict[str, object]:
        """The optimizer over these parameters as Lightning takes it, its rate set at every step."""
        instance = make_optimizer(optimizer, parameters)
        self.set_end(lambda: trainer.estimated_stepping_batches)
        share = lambda step: self.learning(step)  # noqa: E731 - a method would be pickled
        schedule = torch.optim.lr_scheduler.LambdaLR(instance, share)
        return {"optimizer": instance, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning(self, step: int) -> float:
        """The share of the learning rate at an optimizer step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if step < self.falls_from:
            return warm
        way = (step - self.falls_from) / (self.end - self.falls_from)
        return warm * DECAYS[self.decay](min(1.0, way))

    def pressure(self, step: int) -> float:
        """The share of the sparsity penalty at an optimizer step."""
        return min(1.0, (step + 1) / max(1, self.pressure_warmup_steps))
