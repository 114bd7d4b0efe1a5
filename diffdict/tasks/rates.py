"""How much of the learning rate and of the sparsity penalty counts at which step."""

import math
from collections.abc import Callable, Iterable

import pytorch_lightning as pl
import torch

from diffdict.errors import UserError

DECAYS: dict[str, Callable[[float], float]] = {  # of the way to the end, 0 to 1
    "none": lambda way: 1.0,
    "linear": lambda way: 1 - way,
    "cosine": lambda way: (1 + math.cos(math.pi * way)) / 2,
    "poly": lambda way: (1 - way) ** 0.9,  # Chen et al. 2017, sec. 4.1
}


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
            raise UserError(f"model.decay_share must lie in (0, 1], got {decay_share}")
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
        try:
            made = optimizer(parameters)
        except (ValueError, RuntimeError) as error:  # a negative rate, fused where it is not made
            raise UserError(f"model.optimizer cannot be so: {error}") from error
        self.set_end(lambda: trainer.estimated_stepping_batches)
        share = lambda step: self.learning(step)  # noqa: E731 - a method would be pickled
        schedule = torch.optim.lr_scheduler.LambdaLR(made, share)
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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
