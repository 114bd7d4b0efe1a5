"""Samplers, one function each: ddpm, ddim, ddim_invert; and noise that belongs to a sample.

A level is a position in the (respaced) chain: x at level k is as noisy as the network at step k
expects. Level -1 is the clean picture, level `steps` nothing but noise. Step k goes from level k to
level k-1 (ddim_invert: to k+1), so a chain can be left at any level and taken up from there.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.diffusion.objectives import Objective, interpret
from diffdict.diffusion.schedules import Respacing, Schedule, respace
from diffdict.errors import UserError

Net = Callable[[Tensor, Tensor], Tensor]  # (x, original timesteps int64 [batch]) → its output
Noise = Callable[[int], Tensor] | torch.Generator  # the noise of a step, or where to draw it
OnStep = Callable[[int, Tensor, Tensor], object]  # (step just run, the new x, the predicted x_0)


class Sampled(NamedTuple):
    """Where a chain ended."""

    x: Float[Tensor, "batch channels height width"]
    states: dict[int, Tensor]  # x at each level that was to be recorded


@torch.no_grad()
def ddpm(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    schedule: Schedule,
    *,
    objective: Objective,
    noise: Noise,
    respacing: Respacing = "",
    clip_denoised: bool = True,
    start: int | None = None,
    stop: int = -1,
    record: Collection[int] = (),
    on_step: OnStep | None = None,
) -> Sampled:
    """Ancestral sampling from level `start` (the last) down to `stop` (Ho et al. 2020, alg. 2)."""
    schedule = respace(schedule, respacing)
    start = schedule.steps - 1 if start is None else start
    check_levels("ddpm", schedule.steps - 1, start, stop, -1, record)
    states = {start: x} if start in record else {}
    for step in range(start, stop, -1):
        t = torch.full((len(x),), step, device=x.device)
        output = net(x, timesteps(schedule, step, x))
        guess = interpret(objective, schedule, output, x, t, clip_denoised)
        x = guess.mean
        if step > 0:
            x = x + torch.exp(guess.log_variance / 2) * draw(noise, step, x)
        if step - 1 in record:
            states[step - 1] = x
        if on_step is not None:
            on_step(step, x, guess.x0)
    return Sampled(x, states)


def check_eta(eta: float | int) -> None:
    """How noisy a step may be."""
    if not 0 <= eta <= 1:
        raise UserError(f"sampler.eta is between 0 (no noise) and 1 (as much as ddpm), not {eta}")


@torch.no_grad()
def ddim(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    schedule: Schedule,
    *,
    objective: Objective,
    noise: Noise | None = None,
    respacing: Respacing = "",
    eta: int | float = 0.0,
    clip_denoised: bool = True,
    start: int | None = None,
    stop: int = -1,
    record: Collection[int] = (),
    on_step: OnStep | None = None,
) -> Sampled:
    """From level `start` (the last) down to `stop`, noisy at will (Song et al. 2021, eq. 12)."""
    check_eta(eta)
    if eta > 0 and noise is None:
        raise UserError(f"sampler.eta={eta} draws noise: give a noise or a generator, or eta=0")
    schedule = respace(schedule, respacing)
    start = schedule.steps - 1 if start is None else start
    check_levels("ddim", schedule.steps - 1, start, stop, -1, record)
    states = {start: x} if start in record else {}
    for step in range(start, stop, -1):
        t = torch.full((len(x),), step, device=x.device)
        output = net(x, timesteps(schedule, step, x))
        guess = interpret(objective, schedule, output, x, t, clip_denoised)
        now = schedule.alphas_cumprod[step].item()
        before = schedule.alphas_cumprod_prev[step].item()
        sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)) ** 0.5
        x = before**0.5 * guess.x0 + (1 - before - sigma**2) ** 0.5 * guess.eps
        if sigma > 0:
            x = x + sigma * draw(noise, step, x)
        if step - 1 in record:
            states[step - 1] = x
        if on_step is not None:
            on_step(step, x, guess.x0)
    return Sampled(x, states)


@torch.no_grad()
def ddim_invert(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    schedule: Schedule,
    *,
    objective: Objective,
    respacing: Respacing = "",
    clip_denoised: bool = False,
    start: int = 0,
    stop: int | None = None,
    record: Collection[int] = (),
    on_step: OnStep | None = None,
) -> Sampled:
    """The ODE of ddim at eta 0 backwards: a picture, taken for level `start`, up to level `stop`.

    `stop` is the last level, whence ddim starts; one above it is the noise alone (Song, sec. 4.3).
    """
    schedule = respace(schedule, respacing)
    stop = schedule.steps - 1 if stop is None else stop
    check_levels("ddim_invert", schedule.steps, start, stop, 1, record)
    states = {start: x} if start in record else {}
    for step in range(start, stop):
        t = torch.full((len(x),), step, device=x.device)
        output = net(x, timesteps(schedule, step, x))
        guess = interpret(objective, schedule, output, x, t, clip_denoised)
        after = schedule.alphas_cumprod_next[step].item()
        x = after**0.5 * guess.x0 + (1 - after) ** 0.5 * guess.eps
        if step + 1 in record:
            states[step + 1] = x
        if on_step is not None:
            on_step(step, x, guess.x0)
    return Sampled(x, states)


def timesteps(schedule: Schedule, step: int, x: Tensor) -> Int[Tensor, " batch"]:
    """What the network is told at this step: the original timestep, once a sample."""
    return torch.full((len(x),), int(schedule.timesteps[step]), device=x.device)


def draw(noise: Noise, step: int, x: Tensor) -> Tensor:
    """Standard normal noise in x's shape; a generator draws on its own device."""
    if isinstance(noise, torch.Generator):
        return torch.randn(x.shape, generator=noise, device=noise.device, dtype=x.dtype).to(x)
    return noise(step).to(x)


def own_noise(seed: int, indices: Sequence[int], shape: Sequence[int]) -> Callable[[int], Tensor]:
    """Noise that a sample owns by its index, in any batch; noise(schedule.steps) is its start."""

    def noise(step: int) -> Tensor:
        drawn = []
        for index in indices:
            # mixed by numpy, because neighbouring seeds must not give neighbouring streams
            key = np.random.SeedSequence([seed, index, step]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(key[0] >> 1))
            drawn.append(torch.randn(*shape, generator=generator))
        return torch.stack(drawn)

    return noise


def check_levels(
    name: str, highest: int, start: int, stop: int, direction: int, record: Collection[int]
) -> None:
    """Refuses levels that the chain does not have, or does not pass."""
    lowest = 0 if direction > 0 else -1
    if not (lowest <= min(start, stop) and max(start, stop) <= highest):
        raise UserError(
            f"{name} knows the levels {lowest} to {highest} of this chain, not start={start} and "
            f"stop={stop}: they count respaced steps, not timesteps"
        )
    if (stop - start) * direction < 0:
        way = "up" if direction > 0 else "down"
        raise UserError(f"{name} goes {way}, not from start={start} to stop={stop}: swap them")
    missed = sorted(level for level in record if not min(start, stop) <= level <= max(start, stop))
    if missed:
        raise UserError(
            f"{name} from level {start} to {stop} never passes level {missed[0]}: record only "
            "levels between them"
        )
