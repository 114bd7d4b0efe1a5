"""Pictures with and without a change of the network: one plain chain, and what leaves it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from diffdict.diffusion.chains.inversion import PICTURE_LEVEL
from diffdict.diffusion.objectives import Net, Objective
from diffdict.diffusion.process import Process
from diffdict.diffusion.samplers import (
    NoiseSource,
    OnStep,
    ddae_ddim,
    ddim,
    ddim_invert,
    heun,
    late_chain,
    length,
)
from diffdict.diffusion.schedules import respace
from diffdict.errors import UserError


class Branch(NamedTuple):
    """A changed network, and the level at which its chain leaves the plain one."""

    net: Net
    level: int


class Pairs(NamedTuple):
    """Where the plain chain ended, and each that left it."""

    off: Float[Tensor, "batch channels height width"]
    on: list[Float[Tensor, "batch channels height width"]]


def draw_pairs(
    plain: Net,
    branches: Sequence[Branch],
    x: Float[Tensor, "batch channels height width"],
    process: Process,
    sampler: partial,
    *,
    objective: Objective,
    noise: NoiseSource | None = None,
    start: int | None = None,
    stop: int | None = None,
    on_step: OnStep | None = None,
    on_plain: Callable[[Tensor], object] | None = None,
) -> Pairs:
    """Each chain has the same noise at a step; what lies above a branch is computed once.

    `on_plain` sees where the plain chain ended before any branch goes on.
    """
    shared = {"objective": objective, "noise": noise, "on_step": on_step}
    shared |= {} if stop is None else {"stop": stop}
    record = {branch.level for branch in branches}
    first = {} if start is None else {"start": start}
    chain = sampler(plain, x, process, record=record, **first, **shared)
    if on_plain is not None:
        on_plain(chain.x)
    on = [
        sampler(net, chain.states[level], process, start=level, **shared).x
        for net, level in branches
    ]
    return Pairs(chain.x, on)


def step_timesteps(sampler: partial, process: Process) -> list[int] | None:
    """What the network is told at each step of this chain, the last step first; None of EDM's."""
    length(sampler, process)  # refuses what it cannot go along
    if sampler.func is heun:
        return None
    if sampler.func is ddae_ddim:
        chain = late_chain(process, sampler.keywords.get("steps", 100))
        return chain.timesteps[1:].tolist()
    return respace(process, sampler.keywords.get("respacing", "")).timesteps.tolist()


def window_level(
    window: Sequence | None, sampler: partial, process: Process, start: int | None = None
) -> int:
    """The level at which a chain changed in [from, to) alone leaves the plain one."""
    last = length(sampler, process) - 1 if start is None else start
    if window is None:
        return last
    steps = step_timesteps(sampler, process)
    if steps is None:
        raise UserError(
            f"window={list(window)} counts timesteps, and this network goes along noise levels: "
            "leave it out"
        )
    steps = steps[: last + 1]
    inside = [level for level, t in enumerate(steps) if window[0] <= t < window[1]]
    if not inside:
        some = ", ".join(map(str, steps if len(steps) <= 25 else [*steps[:24], f"… {steps[-1]}"]))
        raise UserError(
            f"window={list(window)} holds no step of this chain, whose timesteps are {some}: "
            "another window, or more steps with sampler.respacing="
        )
    return inside[-1]


def level_of(timestep: int, sampler: partial, process: Process) -> int:
    """The noisiest step of this chain that is no noisier than this timestep."""
    steps = step_timesteps(sampler, process)
    if steps is None:
        raise UserError("Pictures are inverted along a chain of timesteps, this network has none")
    below = [level for level, t in enumerate(steps) if t <= timestep]
    first, last = steps[1], int(process.timesteps[-1])
    if not first <= timestep <= last:
        raise UserError(
            f"level is a timestep from {first} to {last} of this chain, got {timestep}: "
            f"level={min(max(400, first), last)}"
        )
    return below[-1]


def redraw_pairs(
    plain: Net,
    branches: Sequence[Branch],
    images: Float[Tensor, "batch channels height width"],
    process: Process,
    sampler: partial,
    *,
    objective: Objective,
    level: int,
    on_step: OnStep | None = None,
    on_plain: Callable[[Tensor], object] | None = None,
) -> Pairs:
    """Pictures up to `level` by ddim's own steps, and down again plain and changed; none clips."""
    settings = {"respacing": sampler.keywords.get("respacing", ""), "clip_denoised": False}
    up = ddim_invert(
        plain,
        images,
        process,
        objective=objective,
        start=PICTURE_LEVEL,
        stop=level,
        on_step=on_step,
        **settings,
    ).x
    return draw_pairs(
        plain,
        branches,
        up,
        process,
        partial(ddim, **settings),
        objective=objective,
        start=level,
        stop=PICTURE_LEVEL,
        on_step=on_step,
        on_plain=on_plain,
    )
