"""Noise schedules: betas, the tables that follow from them, q(x_t|x_0), and respaced chains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, repeat
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from diffdict.errors import UserError

Respacing = str | int | Sequence[int]  # "", "50", "ddim50", "linspace50", "10,10,5", 50, [10, 5]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The float64 tables of a chain of noising steps, indexed by the position in that chain."""

    timesteps: Int64[Tensor, " steps"]  # what the network is told: positions in the original chain
    betas: Float64[Tensor, " steps"]
    log_betas: Float64[Tensor, " steps"]
    alphas_cumprod: Float64[Tensor, " steps"]
    alphas_cumprod_prev: Float64[Tensor, " steps"]  # 1 before the first step: the clean picture
    alphas_cumprod_next: Float64[Tensor, " steps"]  # 0 after the last step: pure noise
    sqrt_alphas_cumprod: Float64[Tensor, " steps"]
    sqrt_one_minus_alphas_cumprod: Float64[Tensor, " steps"]
    log_one_minus_alphas_cumprod: Float64[Tensor, " steps"]
    sqrt_recip_alphas_cumprod: Float64[Tensor, " steps"]
    sqrt_recipm1_alphas_cumprod: Float64[Tensor, " steps"]
    posterior_variance: Float64[Tensor, " steps"]
    posterior_log_variance_clipped: Float64[Tensor, " steps"]  # index 0 takes the value of index 1
    fixed_large_log_variance: Float64[Tensor, " steps"]  # log beta, but index 0 as above
    posterior_mean_coef1: Float64[Tensor, " steps"]  # of x_0
    posterior_mean_coef2: Float64[Tensor, " steps"]  # of x_t

    @property
    def steps(self) -> int:
        """The length of the chain."""
        return len(self.betas)

    @property
    def noise_levels(self) -> Float64[Tensor, " steps"]:
        """At each step the noise's deviation for a signal of size 1."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def noised(
        self,
        images: Float[Tensor, "batch *shape"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, "#batch *shape"],
    ) -> Float[Tensor, "batch *shape"]:
        """The pictures at positions t of the chain."""
        return q_sample(self, images, t, noise)

    def start(self, noise: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Pure noise."""
        return noise

    def to(self, device: torch.device | str) -> "Schedule":
        """The same tables on another device."""
        return Schedule(*(getattr(self, field.name).to(device) for field in fields(self)))


class Gaussian(NamedTuple):
    """A Gaussian with a diagonal covariance; the variances broadcast against the mean."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor


def linear_betas(steps: int) -> Float64[Tensor, " steps"]:
    """1e-4 … 0.02 at 1000 steps, scaled so that other lengths end as noisy (Ho et al. 2020)."""
    if steps <= 20:
        raise UserError(
            "The linear schedule needs more than 20 steps, because its last beta is 20/steps; "
            f"not {steps}: use the cosine schedule, or 1000 steps and a respacing"
        )
    scale = 1000 / steps
    return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64)


def cosine_betas(steps: int) -> Float64[Tensor, " steps"]:
    """Betas whose alphas_cumprod is cos², none above 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    s = torch.arange(steps + 1, dtype=torch.float64) / steps
    alphas_cumprod = torch.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)


def constant_betas(steps: int) -> Float64[Tensor, " steps"]:
    """0.008 at each of 1000 steps, as codes are noised (Preechakul et al. 2022)."""
    if steps <= 8:
        raise UserError(
            f"The constant schedule needs more than 8 steps, because its beta is 8/steps; not "
            f"{steps}: give steps=1000"
        )
    return torch.full((steps,), 8 / steps, dtype=torch.float64)


def tables(betas: Float64[Tensor, " steps"], timesteps: Int64[Tensor, " steps"]) -> Schedule:
    """Everything that follows from the betas (Ho et al. 2020, eq. 4, 6, 7)."""
    alphas = 1 - betas
    alphas_cumprod = alphas.cumprod(0)
    prev = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    following = torch.cat([alphas_cumprod[1:], torch.zeros(1, dtype=torch.float64)])
    posterior_variance = betas * (1 - prev) / (1 - alphas_cumprod)
    # x_0 is known at the end of the chain, so the first variance is 0 and its log is borrowed from
    # the next one; a chain of one step has none to borrow from but its beta
    borrowed = posterior_variance[1:2] if len(betas) > 1 else betas
    return Schedule(
        timesteps=timesteps,
        betas=betas,
        log_betas=betas.log(),
        alphas_cumprod=alphas_cumprod,
        alphas_cumprod_prev=prev,
        alphas_cumprod_next=following,
        sqrt_alphas_cumprod=alphas_cumprod.sqrt(),
        sqrt_one_minus_alphas_cumprod=(1 - alphas_cumprod).sqrt(),
        log_one_minus_alphas_cumprod=(1 - alphas_cumprod).log(),
        sqrt_recip_alphas_cumprod=(1 / alphas_cumprod).sqrt(),
        sqrt_recipm1_alphas_cumprod=(1 / alphas_cumprod - 1).sqrt(),
        posterior_variance=posterior_variance,
        posterior_log_variance_clipped=torch.cat([borrowed, posterior_variance[1:]]).log(),
        fixed_large_log_variance=torch.cat([borrowed, betas[1:]]).log(),
        posterior_mean_coef1=betas * prev.sqrt() / (1 - alphas_cumprod),
        posterior_mean_coef2=(1 - prev) * alphas.sqrt() / (1 - alphas_cumprod),
    )


def make_schedule(name: str = "linear", steps: int = 1000, respacing: Respacing = "") -> Schedule:
    """A schedule by name, thinned out by a respacing."""
    makers = {"linear": linear_betas, "cosine": cosine_betas, "constant": constant_betas}
    if name not in makers:
        raise UserError(f"No noise schedule is called {name!r}: choose one of {', '.join(makers)}")
    if steps < 1:
        raise UserError(f"A noise schedule needs at least one step, not {steps}: give steps=1000")
    return respace(tables(makers[name](steps), torch.arange(steps)), respacing)


def respace(schedule: Schedule, spec: Respacing) -> Schedule:
    """The chain that visits only some of the steps, each with the same alphas_cumprod as before."""
    if spec == "":
        return schedule
    positions = torch.tensor(respaced_timesteps(schedule.steps, spec))
    alphas_cumprod = schedule.alphas_cumprod.cpu()[positions]
    prev = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    betas = 1 - alphas_cumprod / prev
    return tables(betas, schedule.timesteps.cpu()[positions]).to(schedule.betas.device)


def respaced_timesteps(steps: int, spec: Respacing) -> list[int]:
    """The steps kept: "ddim25" by one whole stride, "25" evenly, "10,10,5" section by section.

    "linspace25" is PDAE's set: the 25 + 1 points of a line from the first step to the last.
    """
    text = spec.strip() if isinstance(spec, str) else str(spec).strip("[]()")
    if spec == "":
        return list(range(steps))
    if text.startswith("linspace"):
        return spaced(steps, text.removeprefix("linspace"))
    numbers = text.removeprefix("ddim").split(",")
    if not all(n.strip().isdecimal() and int(n) > 0 for n in numbers) or (
        text.startswith("ddim") and len(numbers) > 1
    ):
        raise UserError(
            f'Respacing {spec!r} is not of a known form: give a count ("50"), a count for each '
            'equal section ("10,10,5"), or a count reached by one whole stride ("ddim50")'
        )
    counts = [int(n) for n in numbers]
    return strided(steps, counts[0]) if text.startswith("ddim") else sectioned(steps, counts)


def spaced(steps: int, count: str) -> list[int]:
    """`count` + 1 points from the first step to the last, rounded down, each once."""
    if not count.isdecimal() or not 1 <= int(count) <= steps:
        raise UserError(
            f"Respacing linspace{count} of {steps} steps: the number after linspace lies in "
            f"1..{steps}, such as linspace{min(100, steps)}"
        )
    points = np.linspace(0, steps - 1, int(count) + 1)
    return sorted({int(point) for point in points})


def strided(steps: int, count: int) -> list[int]:
    """Exactly `count` steps from 0 on, by the smallest whole stride that gives them."""
    reached = {}
    for stride in range(steps, 0, -1):
        reached[-(-steps // stride)] = stride
    if count not in reached:
        below = max((n for n in reached if n < count), default=steps)
        above = min((n for n in reached if n > count), default=steps)
        near = " or ".join(f"ddim{n}" for n in sorted({below, above}))
        raise UserError(
            f"Respacing ddim{count}: no whole stride takes exactly {count} of {steps} steps; "
            f'use {near}, or "{min(count, steps)}" without ddim for a fractional stride'
        )
    return list(range(0, steps, reached[count]))


def sectioned(steps: int, counts: Sequence[int]) -> list[int]:
    """`counts[i]` evenly spaced steps, both ends among them, of the i-th of equal sections."""
    size, extra = divmod(steps, len(counts))
    places: list[int] = []
    first = 0
    for i, count in enumerate(counts):
        length = size + (i < extra)
        if length < count:
            raise UserError(
                f"Respacing {','.join(map(str, counts))} of {steps} steps asks for {count} steps "
                f"of a section of {length}: ask for at most {length} there"
            )
        stride = (length - 1) / (count - 1) if count > 1 else 1
        # summed and rounded half to even, as the released samplers were: products differ by one
        places += [first + round(at) for at in accumulate(repeat(stride, count - 1), initial=0.0)]
        first += length
    return places


def gather(
    table: Float64[Tensor, " steps"], t: Int[Tensor, " batch"], like: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *ones"]:
    """table[t], shaped to broadcast against `like`, in its dtype or float32 if that is narrower."""
    # one rounding, float64 to the result, whether before or after the indexing; and a device
    # without float64 (MPS) never sees any
    dtype = torch.promote_types(like.dtype, torch.float32)
    return table.to(dtype).to(t.device)[t].reshape(-1, *[1] * (like.ndim - 1))


def q_sample(
    schedule: Schedule,
    x0: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
    noise: Float[Tensor, "#batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """A draw of q(x_t|x_0), given its standard normal noise (Ho et al. 2020, eq. 4)."""
    signal = gather(schedule.sqrt_alphas_cumprod, t, x0)
    spread = gather(schedule.sqrt_one_minus_alphas_cumprod, t, x0)
    return (signal * x0 + spread * noise).to(x0.dtype)


def q_mean_variance(
    schedule: Schedule, x0: Float[Tensor, "batch *shape"], t: Int[Tensor, " batch"]
) -> Gaussian:
    """The Gaussian q(x_t|x_0) (Ho et al. 2020, eq. 4)."""
    return Gaussian(
        mean=gather(schedule.sqrt_alphas_cumprod, t, x0) * x0,
        variance=gather(1 - schedule.alphas_cumprod, t, x0),
        log_variance=gather(schedule.log_one_minus_alphas_cumprod, t, x0),
    )


def q_posterior(
    schedule: Schedule,
    x0: Float[Tensor, "batch *shape"],
    x_t: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
) -> Gaussian:
    """The Gaussian q(x_{t-1}|x_t, x_0) (Ho et al. 2020, eq. 6 and 7)."""
    from_x0 = gather(schedule.posterior_mean_coef1, t, x0)
    from_x_t = gather(schedule.posterior_mean_coef2, t, x0)
    return Gaussian(
        mean=from_x0 * x0 + from_x_t * x_t,
        variance=gather(schedule.posterior_variance, t, x0),
        log_variance=gather(schedule.posterior_log_variance_clipped, t, x0),
    )


def x0_from_eps(
    schedule: Schedule,
    x_t: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
    eps: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """The x_0 that x_t and its noise imply."""
    recip = gather(schedule.sqrt_recip_alphas_cumprod, t, x_t)
    return recip * x_t - gather(schedule.sqrt_recipm1_alphas_cumprod, t, x_t) * eps


def eps_from_x0(
    schedule: Schedule,
    x_t: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
    x0: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """The noise that x_t and its x_0 imply."""
    recip = gather(schedule.sqrt_recip_alphas_cumprod, t, x_t)
    return (recip * x_t - x0) / gather(schedule.sqrt_recipm1_alphas_cumprod, t, x_t)


def v_from_x0(
    schedule: Schedule,
    x0: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """The velocity: signal · noise − spread · x_0 (Salimans & Ho 2022, section 4)."""
    signal = gather(schedule.sqrt_alphas_cumprod, t, x0)
    return signal * noise - gather(schedule.sqrt_one_minus_alphas_cumprod, t, x0) * x0


def x0_from_v(
    schedule: Schedule,
    x_t: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
    v: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """The x_0 that x_t and its velocity imply: signal · x_t − spread · v."""
    signal = gather(schedule.sqrt_alphas_cumprod, t, x_t)
    return signal * x_t - gather(schedule.sqrt_one_minus_alphas_cumprod, t, x_t) * v


def eps_from_v(
    schedule: Schedule,
    x_t: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
    v: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """The noise that x_t and its velocity imply: spread · x_t + signal · v."""
    signal = gather(schedule.sqrt_alphas_cumprod, t, x_t)
    return gather(schedule.sqrt_one_minus_alphas_cumprod, t, x_t) * x_t + signal * v
