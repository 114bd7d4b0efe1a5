"""Samplers, one function each: ddpm, ddim, ddae_ddim, heun, ddim_invert; and a sample's own noise.

A level is a position in the (respaced) chain: x at level k is as noisy as the network at step k
expects. Level -1 is the clean picture, level `steps` nothing but noise. Step k goes from level k to
level k-1 (ddim_invert: to k+1), so a chain can be left at any level and taken up from there.
"""

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.diffusion.edm import Levels
from diffdict.diffusion.flow import Flow
from diffdict.diffusion.objectives import Net, Objective, interpret
from diffdict.diffusion.process import Process
from diffdict.diffusion.schedules import Respacing, Schedule, respace, tables
from diffdict.errors import UserError
from diffdict.seeds import entropy

NoiseSource = Callable[[int], Tensor] | torch.Generator  # the noise of a step, or where to draw it
OnStep = Callable[[int, Tensor, Tensor], object]  # (step just run, the new x, the predicted x_0)
MOST_CHURN = math.sqrt(2) - 1  # EDM's limit of gamma


class Sampled(NamedTuple):
    """Where a chain ended."""

    x: Float[Tensor, "batch channels height width"]
    states: dict[int, Tensor]  # x at each level that was to be recorded


@torch.no_grad()
def ddpm(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    schedule: Process,
    *,
    objective: Objective,
    noise: NoiseSource,
    respacing: Respacing = "",
    clip_denoised: bool = True,
    start: int | None = None,
    stop: int = -1,
    record: Collection[int] = (),
    on_step: OnStep | None = None,
) -> Sampled:
    """Ancestral sampling from level `start` (the last) down to `stop` (Ho et al. 2020, alg. 2)."""
    check_process("ddpm", schedule, Schedule)
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
            x = x + torch.exp(guess.log_variance / 2) * draw_noise(noise, step, x)
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
    schedule: Process,
    *,
    objective: Objective,
    noise: NoiseSource | None = None,
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
    check_process("ddim", schedule, Schedule)
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
            x = x + sigma * draw_noise(noise, step, x)
        if step - 1 in record:
            states[step - 1] = x
        if on_step is not None:
            on_step(step, x, guess.x0)
    return Sampled(x, states)


@torch.no_grad()
def ddae_ddim(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    schedule: Process,
    *,
    objective: Objective = Objective(variance="fixed_large"),  # noqa: B008 - immutable
    noise: NoiseSource | None = None,
    steps: int = 100,
    eta: int | float = 0.0,
    clip_denoised: bool = True,
    start: int | None = None,
    stop: int = -1,
    record: Collection[int] = (),
    on_step: OnStep | None = None,
) -> Sampled:
    """DDIM as DDAE published it (Xiang et al. 2023): one beta late, its last step never noised.

    Level -1 is as noisy as the first beta makes it: a hundredth of the noise is left in there.
    """
    check_eta(eta)
    if eta > 0 and noise is None:
        raise UserError(f"sampler.eta={eta} draws noise: give a noise or a generator, or eta=0")
    chain = late_chain(schedule, steps)
    start = steps - 1 if start is None else start
    check_levels("ddae_ddim", steps - 1, start, stop, -1, record)
    states = {start: x} if start in record else {}
    for step in range(start, stop, -1):
        t = torch.full((len(x),), step + 1, device=x.device)  # level -1 stands first in the chain
        output = net(x, timesteps(chain, step + 1, x))
        guess = interpret(objective, chain, output, x, t, clip_denoised)
        now = chain.alphas_cumprod[step + 1].item()
        before = chain.alphas_cumprod[step].item()
        sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)) ** 0.5
        x = before**0.5 * guess.x0 + (1 - before - sigma**2) ** 0.5 * guess.eps
        if sigma > 0 and step > 0:
            x = x + sigma * draw_noise(noise, step, x)
        if step - 1 in record:
            states[step - 1] = x
        if on_step is not None:
            on_step(step, x, guess.x0)
    return Sampled(x, states)


def late_chain(schedule: Process, steps: int) -> Schedule:
    """DDAE's table for DDIM: times 0, 1, 1 + s, … of linear betas that begin one step earlier."""
    check_process("ddae_ddim", schedule, Schedule)
    length, betas = schedule.steps, schedule.betas.cpu()
    if steps < 1 or length % steps:
        raise UserError(
            f"ddae_ddim takes a number of steps that divides {length}, got {steps}: 100 or 50"
        )
    first, last = betas[0].item(), betas[-1].item()
    if not torch.allclose(betas, torch.linspace(first, last, length, dtype=torch.float64)):
        raise UserError("ddae_ddim goes along a linear schedule, this is another: sampler=ddim")
    shifted = torch.linspace(first, last, length + 1, dtype=torch.float64)
    times = torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.arange(1, length + 1, length // steps)]
    )
    alphas_cumprod = (1 - shifted).cumprod(0)[times]
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    return tables(1 - alphas_cumprod / before, schedule.timesteps.cpu()[(times - 1).clamp(min=0)])


@torch.no_grad()
def heun(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    levels: Process,
    *,
    objective: Objective = Objective(predict="x0", variance="fixed_small"),  # noqa: B008 - immutable
    noise: NoiseSource | None = None,
    steps: int = 18,
    eta: int | float = 0.0,
    churn: int | float = 0.0,
    s_min: int | float = 0.01,
    s_max: int | float = 1.0,
    s_noise: int | float = 1.007,
    clip_denoised: bool = True,
    start: int | None = None,
    stop: int = -1,
    record: Collection[int] = (),
    on_step: OnStep | None = None,
) -> Sampled:
    """EDM's second-order sampler from level `start` (the last) down (Karras et al. 2022, alg. 2).

    Between the levels `s_min` and `s_max` a step first adds noise: `eta` of the most that EDM
    allows, or EDM's own measure `churn`. The state is kept in float64.
    """
    ladder = check_heun(levels, steps, eta, churn, s_min, s_max)
    if objective.predict != "x0":
        raise UserError(f"heun reads predict=x0, got {objective.predict}: say predict=x0")
    gamma = min(churn / steps, MOST_CHURN) if churn else eta * MOST_CHURN
    if gamma > 0 and noise is None:
        raise UserError("heun with eta or churn draws noise: give a noise or a generator, or eta=0")
    start = steps - 1 if start is None else start
    check_levels("heun", steps - 1, start, stop, -1, record)
    sigmas = ladder.noise_levels.tolist()
    x = x.double()
    states = {start: x} if start in record else {}
    for step in range(start, stop, -1):
        now, after = sigmas[step], sigmas[step - 1] if step > 0 else 0.0
        if gamma > 0 and s_min <= now <= s_max:
            raised = now * (1 + gamma)
            spread = (raised**2 - now**2) ** 0.5 * s_noise
            x = x + spread * draw_noise(noise, step, x.float()).double()
            now = raised
        x, x0 = heun_step(net, x, now, after, clip_denoised)
        if step - 1 in record:
            states[step - 1] = x
        if on_step is not None:
            on_step(step, x, x0)
    return Sampled(x, states)


def heun_step(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    now: float,
    after: float,
    clip_denoised: bool,
) -> tuple[Tensor, Tensor]:
    """x at noise level `after` by the mean slope of both ends, and the picture D that led there."""

    def denoised(x: Tensor, sigma: float) -> Tensor:
        x0 = net(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))
        return x0.clamp(-1, 1) if clip_denoised else x0

    x0 = denoised(x, now)
    slope = (x - x0) / now
    reached = x + (after - now) * slope
    if after > 0:
        slope = (slope + (reached - denoised(reached, after)) / after) / 2
        reached = x + (after - now) * slope
    return reached, x0


def check_heun(
    levels: Process,
    steps: int,
    eta: int | float = 0.0,
    churn: int | float = 0.0,
    s_min: int | float = 0.01,
    s_max: int | float = 1.0,
) -> Levels:
    """The levels that it visits, if it can go along them so."""
    check_process("heun", levels, Levels)
    check_eta(eta)
    if churn < 0 or (churn and eta):
        raise UserError(
            f"sampler.churn ≥ 0 takes the place of eta, got {churn} and {eta}: one is 0"
        )
    if not 0 <= s_min <= s_max:
        raise UserError(f"0 ≤ sampler.s_min ≤ sampler.s_max, got {s_min} and {s_max}: 0.01 and 1")
    return replace(levels, steps=steps)


@torch.no_grad()
def ddim_invert(
    net: Net,
    x: Float[Tensor, "batch channels height width"],
    schedule: Process,
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
    check_process("ddim_invert", schedule, Schedule)
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


def noiseless(process: Process, steps: int) -> partial:
    """The sampler of this process that draws no noise on its way, in so many steps."""
    if isinstance(process, Levels):
        return partial(heun, steps=steps)
    return partial(ddim, respacing=str(steps))


def length(sampler: partial, process: Process) -> int:
    """How many steps a sampler with these settings takes along this process, if it can."""
    name, settings = sampler.func.__name__, sampler.keywords
    check_eta(settings.get("eta", 0))
    if sampler.func is heun:
        limits = ("eta", "churn", "s_min", "s_max")
        ladder = check_heun(
            process, settings.get("steps", 18), **{k: settings[k] for k in limits if k in settings}
        )
        return ladder.steps
    if "respacing" not in inspect.signature(sampler).parameters and sampler.func is not ddae_ddim:
        return settings["steps"]  # it goes along no table, and looks at the process itself
    check_process(name, process, Schedule)
    if sampler.func is ddae_ddim:
        return late_chain(process, settings.get("steps", 100)).steps - 1
    return respace(process, settings.get("respacing", "")).steps


def check_process(name: str, process: Process, wanted: type) -> None:
    """Refuses a sampler of another kind of process."""
    kinds = {
        Schedule: ("a chain of timesteps", "ddim or sampler=ddpm"),
        Levels: ("EDM's noise levels", "heun"),
        Flow: ("straight lines to noise", "pipeline"),
    }
    if not isinstance(process, wanted):
        other = ("another process", "ddim or sampler=ddpm")
        has, way = next((kinds[kind] for kind in kinds if isinstance(process, kind)), other)
        raise UserError(
            f"{name} goes along {kinds[wanted][0]}, this network has {has}: sampler={way}"
        )


def timesteps(schedule: Schedule, step: int, x: Tensor) -> Int[Tensor, " batch"]:
    """What the network is told at this step: the original timestep, once a sample."""
    return torch.full((len(x),), int(schedule.timesteps[step]), device=x.device)


def draw_noise(noise: NoiseSource, step: int, x: Tensor) -> Tensor:
    """Standard normal noise in x's shape; a generator draws on its own device."""
    if isinstance(noise, torch.Generator):
        return torch.randn(x.shape, generator=noise, device=noise.device, dtype=x.dtype).to(x)
    return noise(step).to(x)


def own_noise(seed: int, indices: Sequence[int], shape: Sequence[int]) -> Callable[[int], Tensor]:
    """Noise that a sample owns by its index, in any batch; noise(schedule.steps) is its start."""

    def noise(step: int) -> Tensor:
        rows = []
        for index in indices:
            generator = torch.Generator().manual_seed(entropy(seed, index, step))
            rows.append(torch.randn(*shape, generator=generator))
        return torch.stack(rows)

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
