"""Sampling by the scheduler that diffusers saved with a pipeline, step for step as it samples."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.diffusion.flow import Flow
from diffdict.diffusion.objectives import Net, Objective, interpret
from diffdict.diffusion.process import Process
from diffdict.diffusion.samplers import NoiseSource, OnStep, Sampled, check_levels
from diffdict.diffusion.schedules import Schedule, gather
from diffdict.errors import UserError

Scheduler = Callable[
    [int, Sequence[int]], object
]  # (steps, shape of x) → diffusers', ready to step
# their steps draw noise, in an order that only a whole batch has
DRAWING = ("DDPM", "Ancestral", "LCM", "SDE", "TCD")


@dataclass(frozen=True, eq=False)
class PipelineChain(Schedule):
    """A chain, and the scheduler that its pipeline samples with."""

    scheduler: Scheduler

    @classmethod
    def of(cls, schedule: Schedule, scheduler: Scheduler) -> "PipelineChain":
        """This chain with a scheduler."""
        return cls(*(getattr(schedule, field.name) for field in fields(Schedule)), scheduler)


@torch.no_grad()
def pipeline(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    process: Process,
    *,
    objective: Objective,
    noise: NoiseSource | None = None,
    steps: int = 50,
    start: int | None = None,
    stop: int = -1,
    record: Collection[int] = (),
    on_step: OnStep | None = None,
) -> Sampled:
    """From noise down as the pipeline's own scheduler steps, which draws no noise on its way."""
    check_pipeline(process, steps)
    check_levels("pipeline", steps - 1, steps - 1 if start is None else start, stop, -1, record)
    if (start, stop) != (None, -1) and (start, stop) != (steps - 1, -1):
        raise UserError(
            "pipeline goes its whole way, for its steps remember those before them, got "
            f"start={start} and stop={stop}: sampler=ddim can be left and taken up anywhere"
        )
    scheduler = process.scheduler(steps, x.shape)
    channels, states = x.shape[1], {steps - 1: x} if steps - 1 in record else {}
    chain = not isinstance(process, Flow)  # whose schedulers scale what the network sees
    x = x * scheduler.init_noise_sigma if chain else x
    times = scheduler.timesteps
    for number, t in enumerate(times):
        x_t = scheduler.scale_model_input(x, t) if chain else x
        timesteps = t.to(x.device).expand(len(x))
        prediction = net(x_t, timesteps)[:, :channels]
        x = scheduler.step(prediction, t, x, return_dict=False)[0]
        level = (len(times) - number - 1) * steps // len(times) - 1  # of schedulers that step twice
        if level in record:
            states[level] = x
        if on_step is not None:
            on_step(level + 1, x, _clean(objective, process, prediction, x_t, timesteps))
    return Sampled(x, states)


def _clean(
    objective: Objective, process: Process, prediction: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """The picture that a prediction leads to."""
    at = (t.float().round().long() - int(process.timesteps[0])).clamp(0, process.steps - 1)
    if isinstance(process, Flow):
        return x_t - gather(process.sigmas, at, x_t) * prediction
    fixed = Objective(objective.predict, "fixed_small")
    return interpret(fixed, process, prediction, x_t, at).x0


def check_pipeline(process: Process, steps: int) -> None:
    """Refuses networks without a scheduler, and schedulers whose steps draw noise."""
    if steps < 1:
        raise UserError(f"sampler.steps is 1 or more, got {steps}: 50 is usual")
    if not isinstance(process, PipelineChain | Flow) or process.scheduler is None:
        raise UserError(
            "pipeline steps as the scheduler that diffusers saved beside a network, and this "
            "network has none: sampler=ddim, or backbone=hub"
        )
    kind = type(process.scheduler(steps, (1, 1, 2, 2))).__name__
    if any(word in kind for word in DRAWING):
        raise UserError(
            f"The pipeline's {kind} draws noise at every step, in the order of a batch, and a "
            "sample owns its noise: sampler=ddpm, or sampler=ddim"
        )
