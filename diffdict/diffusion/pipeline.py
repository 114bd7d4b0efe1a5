"""Sampling by the scheduler that diffusers saved with a pipeline, step for step as it samples."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.diffusion.flow import Flow
from diffdict.diffusion.objectives import Net, Objective
from diffdict.diffusion.process import Process
from diffdict.diffusion.schedules import Schedule
from diffdict.errors import UserError


@dataclass(frozen=True, eq=False)
class PipelineChain(Schedule):
    """A chain, and the scheduler that its pipeline samples with."""

    scheduler: Callable[[], object]  # makes a fresh one

    @classmethod
    def of(cls, schedule: Schedule, scheduler: Callable[[], object]) -> "PipelineChain":
        """This chain with a scheduler."""
        return cls(*(getattr(schedule, field.name) for field in fields(Schedule)), scheduler)

    def to(self, device: torch.device | str) -> "PipelineChain":
        """The same tables on another device."""
        moved = (getattr(self, field.name).to(device) for field in fields(Schedule))
        return PipelineChain(*moved, self.scheduler)
