"""What a network predicts, how that is read, drawn for training and weighed."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.diffusion.edm import Levels, broadcast, loss_weight
from diffdict.diffusion.process import Process
from diffdict.diffusion.schedules import (
    Schedule,
    eps_from_v,
    eps_from_x0,
    gather,
    q_posterior,
    v_from_x0,
    x0_from_eps,
    x0_from_v,
)
from diffdict.errors import UserError

Net = Callable[[Tensor, Tensor], Tensor]  # (x, timesteps or noise levels [batch]) → its output
RAREST = 1e-6  # share of the noise levels beyond which validation does not look
CHOICES = {
    "predict": ("eps", "x0", "v"),
    "variance": ("fixed_small", "fixed_large", "learned_range"),
    "loss": ("mse", "rescaled_mse", "kl", "rescaled_kl"),
    "weighting": ("none", "min_snr"),
}


@dataclass(frozen=True)
class Objective:
    """The meaning of a network's output, and the loss that teaches it."""

    predict: str = "eps"
    variance: str = "learned_range"
    loss: str = "mse"  # mse: hybrid when the variance is learned (Nichol & Dhariwal 2021, eq. 16)
    weighting: str = "none"
    gamma: int | float = 5.0  # where min_snr cuts; 5 is the paper's (Hang et al. 2023)
    # of ln sigma in training along EDM's levels; no sample hangs on them, so none is named by them
    p_mean: int | float = field(default=-1.2, repr=False)
    p_std: int | float = field(default=1.2, repr=False)

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise UserError(
                    f"objective.{key} is one of {', '.join(choices)}, not {getattr(self, key)!r}"
                )
        if not self.gamma > 0:
            raise UserError(f"objective.gamma must be positive, not {self.gamma}: 5 is usual")
        if not self.p_std > 0:
            raise UserError(f"objective.p_std must be positive, not {self.p_std}: 1.2 is usual")


class Interpretation(NamedTuple):
    """What a network's output says about x_0 and x_{t-1}."""

    x0: Tensor
    eps: Tensor  # agrees with x0, also where that was clipped
    mean: Tensor  # of p(x_{t-1}|x_t)
    log_variance: Tensor  # of p(x_{t-1}|x_t), in the shape of the mean


class Losses(NamedTuple):
    """One value a sample."""

    loss: Float[Tensor, " batch"]  # what to minimise
    mse: Float[Tensor, " batch"]  # of the predicted quantity, unweighted
    vb: Float[Tensor, " batch"] | None  # bits a dimension, scaled as in the loss; None: not in it


def split_output(
    objective: Objective, output: Float[Tensor, "batch out *shape"], channels: int
) -> tuple[Tensor, Tensor | None]:
    """The prediction, and the variance's interpolation if it is learned, out of the channels."""
    learned = objective.variance == "learned_range"
    if output.shape[1] not in ((2 * channels,) if learned else (channels, 2 * channels)):
        raise UserError(
            f"variance={objective.variance} reads {(1 + learned) * channels} output channels, and "
            f"the network gives {output.shape[1]}: set the network's learn_sigma="
            f"{str(learned).lower()}, or another variance"
        )
    return output[:, :channels], output[:, channels:] if learned else None


def interpret(
    objective: Objective,
    schedule: Schedule,
    output: Float[Tensor, "batch out *shape"],
    x_t: Float[Tensor, "batch channels *shape"],
    t: Int[Tensor, " batch"],
    clip_denoised: bool = False,
) -> Interpretation:
    """The network's output at position t of the chain, read as x_0 and p(x_{t-1}|x_t)."""
    prediction, fraction = split_output(objective, output, x_t.shape[1])
    if objective.predict == "eps":
        x0, eps = x0_from_eps(schedule, x_t, t, prediction), prediction
    elif objective.predict == "v":
        x0, eps = x0_from_v(schedule, x_t, t, prediction), eps_from_v(schedule, x_t, t, prediction)
    else:
        x0, eps = prediction, eps_from_x0(schedule, x_t, t, prediction)
    if clip_denoised:
        x0 = x0.clamp(-1, 1)
        eps = eps_from_x0(schedule, x_t, t, x0)
    mean = q_posterior(schedule, x0, x_t, t).mean
    return Interpretation(x0, eps, mean, log_variance(objective, schedule, fraction, mean, t))


def log_variance(
    objective: Objective,
    schedule: Schedule,
    fraction: Float[Tensor, "batch *shape"] | None,
    mean: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """Fixed, or between its bounds where the network says (Nichol & Dhariwal 2021, eq. 15)."""
    small = gather(schedule.posterior_log_variance_clipped, t, mean)
    if objective.variance == "fixed_small":
        return small.expand_as(mean)
    if objective.variance == "fixed_large":
        return gather(schedule.fixed_large_log_variance, t, mean).expand_as(mean)
    share = (fraction + 1) / 2  # not clamped: the network may leave its bounds
    return share * gather(schedule.log_betas, t, mean) + (1 - share) * small


def snr_weights(
    objective: Objective, schedule: Schedule, t: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The weight of each sample's squared error (Hang et al. 2023, section 3.4)."""
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    table = {
        "eps": snr.clamp(max=objective.gamma) / snr,
        "x0": snr.clamp(max=objective.gamma),
        "v": snr.clamp(max=objective.gamma) / (snr + 1),
    }[objective.predict]
    if objective.weighting == "none":
        table = torch.ones_like(table)
    return table.float().to(t.device)[t]


def check_objective(objective: Objective, process: Process) -> None:
    """What can be learned along EDM's levels: the picture, by its weighted squared error."""
    if not isinstance(process, Levels):
        return
    for key, value, choices in (
        ("predict", objective.predict, ("x0",)),
        ("variance", objective.variance, ("fixed_large", "fixed_small")),
        ("loss", objective.loss, ("mse", "rescaled_mse")),
        ("weighting", objective.weighting, ("none",)),
    ):
        if value not in choices:
            raise UserError(
                f"Along EDM's noise levels model.objective.{key} is {' or '.join(choices)}, "
                f"got {value}: say model.objective.{key}={choices[0]}"
            )


def draw_time(
    objective: Objective, process: Process, generator: torch.Generator
) -> Int[Tensor, ""] | Float[Tensor, ""]:
    """A position of the chain, or a noise level with ln sigma ~ N(p_mean, p_std²)."""
    if isinstance(process, Levels):
        normal = torch.randn((), generator=generator, device=generator.device)
        return (normal * objective.p_std + objective.p_mean).exp()
    return torch.randint(process.steps, (), generator=generator, device=generator.device)


def spread_time(
    objective: Objective, process: Process, share: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"] | Float[Tensor, " batch"]:
    """The position or noise level below which this share of the drawn ones lies."""
    if isinstance(process, Levels):
        share = share.clamp(RAREST, 1 - RAREST)
        return (torch.special.ndtri(share) * objective.p_std + objective.p_mean).exp().float()
    return (share * process.steps).long()


def quarter(
    objective: Objective, process: Process, t: Int[Tensor, " batch"] | Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """In which quarter of the drawn positions or noise levels each lies, 0 the least noisy."""
    if isinstance(process, Levels):
        share = torch.special.ndtr((t.log() - objective.p_mean) / objective.p_std)
        return (share * 4).long().clamp(0, 3)
    return t * 4 // process.steps


def denoising_losses(
    objective: Objective,
    process: Process,
    net: Net,
    x0: Float[Tensor, "batch channels *shape"],
    t: Int[Tensor, " batch"] | Float[Tensor, " batch"],
    noise: Float[Tensor, "batch channels *shape"],
) -> Losses:
    """The losses of pictures noised to positions of a chain, or to noise levels of EDM."""
    x_t = process.noised(x0, t, noise)
    if isinstance(process, Levels):  # Karras et al. 2022, eq. 8
        mse = (net(x_t, t).float() - x0) ** 2
        weighted = loss_weight(broadcast(t, x0), process.sigma_data) * mse
        return Losses(flat_mean(weighted), flat_mean(mse), None)
    output = net(x_t, process.timesteps.to(t.device)[t])
    return training_losses(objective, process, output.float(), x0, x_t, t, noise)


def training_losses(
    objective: Objective,
    schedule: Schedule,
    output: Float[Tensor, "batch out *shape"],
    x0: Float[Tensor, "batch channels *shape"],
    x_t: Float[Tensor, "batch channels *shape"],
    t: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch channels *shape"],
) -> Losses:
    """The loss of each sample, given what the network answered to (x_t, schedule.timesteps[t])."""
    prediction, fraction = split_output(objective, output, x0.shape[1])
    target = {
        "eps": lambda: noise,
        "x0": lambda: x0,
        "v": lambda: v_from_x0(schedule, x0, t, noise),
    }[objective.predict]()
    mse = flat_mean((target - prediction) ** 2)
    if objective.loss.endswith("kl"):
        vb = vb_terms(objective, schedule, output, x0, x_t, t)
        vb = vb * schedule.steps if objective.loss == "rescaled_kl" else vb
        return Losses(vb, mse.detach(), vb)
    weighted = snr_weights(objective, schedule, t) * mse
    if fraction is None:
        return Losses(weighted, mse, None)
    # the bound teaches the variance only; the mean belongs to the squared error
    frozen = torch.cat([prediction.detach(), fraction], dim=1)
    vb = vb_terms(objective, schedule, frozen, x0, x_t, t)
    if objective.loss == "rescaled_mse":
        vb = vb * (schedule.steps / 1000)  # so that the sum over the chain, in thousands, stays
    return Losses(weighted + vb, mse, vb)


def vb_terms(
    objective: Objective,
    schedule: Schedule,
    output: Float[Tensor, "batch out *shape"],
    x0: Float[Tensor, "batch channels *shape"],
    x_t: Float[Tensor, "batch channels *shape"],
    t: Int[Tensor, " batch"],
    clip_denoised: bool = False,
) -> Float[Tensor, " batch"]:
    """The bound's term at t in bits a dimension: a KL, and at t = 0 the likelihood of the bytes."""
    truth = q_posterior(schedule, x0, x_t, t)
    ours = interpret(objective, schedule, output, x_t, t, clip_denoised)
    kl = gaussian_kl(truth.mean, truth.log_variance, ours.mean, ours.log_variance)
    nll = -byte_log_likelihood(x0, ours.mean, ours.log_variance / 2)
    return torch.where(t == 0, flat_mean(nll), flat_mean(kl)) / math.log(2)


def gaussian_kl(
    mean1: Float[Tensor, "*#shape"],
    log_variance1: Float[Tensor, "*#shape"],
    mean2: Float[Tensor, "*#shape"],
    log_variance2: Float[Tensor, "*#shape"],
) -> Float[Tensor, "*#shape"]:
    """KL(N1 ‖ N2) in nats, element by element."""
    ratio = torch.exp(log_variance1 - log_variance2)
    distance = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (log_variance2 - log_variance1 + ratio + distance - 1)


def byte_log_likelihood(
    x: Float[Tensor, "*shape"], mean: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The log mass of a Gaussian on the byte around x; the end bytes own the tails (Ho, eq. 13)."""
    centred, sharpness = x - mean, torch.exp(-log_scale)
    below = normal_cdf(sharpness * (centred - 1 / 255))
    above = normal_cdf(sharpness * (centred + 1 / 255))
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def normal_cdf(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Φ(x) by the tanh that released models were trained with (Page 1977), within 2e-4 of it."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def flat_mean(x: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
    """The mean over everything but the batch."""
    return x.flatten(1).mean(1)
