"""Pictures into a code and the noise beside it, and back: the loops as PDAE's trainer runs them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.chains.inversion import PICTURE_LEVEL, steps_one_way
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, ddim_invert, ddpm, own_noise
from diffdict.diffusion.schedules import Respacing, respace
from diffdict.errors import UserError

EPS = Objective(variance="fixed_small")  # what a network with codes answers, whatever it predicts

PictureCodes = Float[Tensor, "batch code"] | None  # None: the frozen network alone


def infer_noise(
    net: Pdae,
    images: Float[Tensor, "batch 3 size size"],
    codes: PictureCodes,
    respacing: Respacing = "linspace100",
) -> Float[Tensor, "batch 3 size size"]:
    """The noise from which these codes draw the pictures again."""
    steps_one_way(net.denoiser.process, respacing)
    keys = {"objective": EPS, "respacing": respacing, "clip_denoised": True}
    return ddim_invert(net.ode_net(codes), images, net.denoiser.process, **keys).x


def draw_with_codes(
    net: Pdae,
    codes: PictureCodes,
    noise: Float[Tensor, "batch 3 size size"],
    respacing: Respacing = "linspace100",
) -> Float[Tensor, "batch 3 size size"]:
    """Pictures by DDIM, from noise and codes that open as in training."""
    keys = {"objective": EPS, "respacing": respacing, "clip_denoised": True}
    process = net.denoiser.process
    return ddim(net.ode_net(codes), noise, process, stop=PICTURE_LEVEL, **keys).x


def draw_ancestral(
    net: Pdae,
    codes: PictureCodes,
    seed: int,
    indices: Sequence[int],
    respacing: Respacing = "",
) -> Float[Tensor, "batch 3 size size"]:
    """Pictures by DDPM, each with the noise of its index; a respaced chain has its own shifts."""
    process, device = net.denoiser.process, next(net.parameters()).device
    noise = own_noise(seed, indices, (3, net.image_size, net.image_size))
    posterior = net.posterior_net(codes, respace(process, respacing))
    keys = {"objective": EPS, "respacing": respacing, "clip_denoised": False}
    return ddpm(posterior, noise(process.steps).to(device), process, noise=noise, **keys).x


def start_noise(net: Pdae, seed: int, indices: Sequence[int]) -> Float[Tensor, "batch 3 size size"]:
    """Noise that each index owns, from which nothing was inferred."""
    shape = (3, net.image_size, net.image_size)
    noise = own_noise(seed, indices, shape)(net.denoiser.process.steps)
    return noise.to(next(net.parameters()).device)


def check_drawn(images: Tensor) -> Tensor:
    """Pictures that a sampler has drawn, if they are numbers."""
    if not bool(torch.isfinite(images).all()):
        raise UserError(
            "A sampler drew pictures that are no numbers: a checkpoint of an earlier step, "
            "trainer.precision=32-true, or more steps (another respacing)"
        )
    return images
