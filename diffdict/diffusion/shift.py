"""What a code adds to a frozen network's noise: a gradient, its size at t, and the loss (PDAE).

A network that knows the picture's code guides p(x_{t-1}|x_t) by a gradient (Zhang et al. 2022,
eq. 6 to 9). Where the posterior is sampled or scored, the noise moves by the shift coefficient;
where the ODE is followed (ddim, ddim_invert), by the score's own sqrt(1 - abar).
"""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from diffdict.diffusion.objectives import flat_mean
from diffdict.diffusion.schedules import Schedule, gather, q_posterior, x0_from_eps
from diffdict.errors import UserError

GAMMA = 0.1  # of the published weight
SHIFTS = ("gradient", "prediction")  # what a shift half puts out
WEIGHTS = ("gap", "own")  # of the squared error at each timestep


def shift_coefficient(schedule: Schedule) -> Float64[Tensor, " steps"]:
    """-sqrt(alpha_t) (1 - abar_{t-1}) / sqrt(1 - abar_t); 0 where the clean picture follows."""
    alphas = 1 - schedule.betas
    before = 1 - schedule.alphas_cumprod_prev
    return -alphas.sqrt() * before / schedule.sqrt_one_minus_alphas_cumprod


def gap_weight(schedule: Schedule, gamma: float = GAMMA) -> Float64[Tensor, " steps"]:
    """snr^gamma / (1 + snr), where snr = abar / (1 - abar) (Zhang et al. 2022, eq. 11)."""
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    return snr**gamma / (1 + snr)


def posterior_eps(
    schedule: Schedule,
    eps: Float[Tensor, "batch *shape"],
    gradient: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """The noise with its gradient for training, ddpm, one step to x_0 and posterior means."""
    return eps + gather(shift_coefficient(schedule), t, eps) * gradient


def ode_eps(
    schedule: Schedule,
    eps: Float[Tensor, "batch *shape"],
    gradient: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """The noise with its gradient for ddim and ddim_invert."""
    return eps - gather(schedule.sqrt_one_minus_alphas_cumprod, t, eps) * gradient


def gap_losses(
    schedule: Schedule,
    noise: Float[Tensor, "batch *shape"],
    eps: Float[Tensor, "batch *shape"],
    gradient: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """The weighted squared error of the noise at positions t of the chain, one value a picture."""
    moved = posterior_eps(schedule, eps, gradient, t)
    return noise_losses(gap_weight(schedule), noise, moved, t)


def noise_losses(
    weight: Float64[Tensor, " steps"],
    noise: Float[Tensor, "batch *shape"],
    eps: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """The squared error of the noise, by this weight of positions t; one value a picture."""
    error = noise - eps
    return flat_mean(gather(weight, t, error) * torch.square(error))


def eps_slope(schedule: Schedule, predict: str) -> Float64[Tensor, " steps"]:
    """How far the noise moves with what a network predicts, by one: eps, x0 or v."""
    return {
        "eps": torch.ones_like(schedule.betas),
        "x0": -1 / schedule.sqrt_recipm1_alphas_cumprod,
        "v": schedule.sqrt_alphas_cumprod,
    }[predict]


def error_weight(schedule: Schedule, predict: str, weight: str) -> Float64[Tensor, " steps"]:
    """Of the noise's squared error: the published `gap`, or `own`, as the network was trained."""
    if weight not in WEIGHTS:
        raise UserError(f"weight is one of {', '.join(WEIGHTS)}, got {weight!r}: gap is published")
    return gap_weight(schedule) if weight == "gap" else eps_slope(schedule, predict) ** -2


def posterior_gap(
    schedule: Schedule,
    x0: Float[Tensor, "batch *shape"],
    x_t: Float[Tensor, "batch *shape"],
    eps: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Mean squared distance of the predicted from the true mean of q(x_{t-1}|x_t, x_0)."""
    truth = q_posterior(schedule, x0, x_t, t).mean
    predicted = q_posterior(schedule, x0_from_eps(schedule, x_t, t, eps), x_t, t).mean
    return flat_mean((truth - predicted) ** 2)
