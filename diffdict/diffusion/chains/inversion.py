"""Pictures into the noise that draws them again: ddim's steps upwards, the way back, its error."""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import Net, OnStep, ddim, ddim_invert
from diffdict.diffusion.schedules import Respacing, Schedule, respace
from diffdict.errors import UserError

PICTURE_LEVEL = 0  # that a picture is taken for; the way back ends there


class RoundTrip(NamedTuple):
    """Where both ways ended."""

    noise: Float[Tensor, "batch channels height width"]
    back: Float[Tensor, "batch channels height width"] | None  # None: nobody went back


class PictureError(NamedTuple):
    """How far pictures in [-1, 1] are from others, one value a picture."""

    rmse: Float[Tensor, " batch"]
    largest: Float[Tensor, " batch"]  # of the absolute differences


def steps_one_way(schedule: Schedule, respacing: Respacing = "") -> int:
    """How often the network is asked on one way: a step fewer than the chain has levels."""
    steps = respace(schedule, respacing).steps - 1
    if steps < 1:
        raise UserError(
            f"sampler.respacing={respacing} keeps a single step, which leads nowhere: an inversion "
            "needs two or more, sampler.respacing=ddim100"
        )
    return steps


def round_trip(
    net: Net,
    images: Float[Tensor, "batch channels height width"],
    schedule: Schedule,
    *,
    objective: Objective,
    respacing: Respacing = "",
    clip_denoised: bool = False,
    back: bool = True,
    on_step: OnStep | None = None,
) -> RoundTrip:
    """Pictures up to the chain's last level, and down again by the same steps (Song, sec. 4.3).

    Each step of ddim at eta 0 is undone by ddim_invert's where the network says the same at both
    of its ends: the error of the round trip is what the network changes its mind by.
    """
    steps_one_way(schedule, respacing)
    keys = {"objective": objective, "respacing": respacing, "clip_denoised": clip_denoised}
    noise = ddim_invert(net, images, schedule, start=PICTURE_LEVEL, on_step=on_step, **keys).x
    if not back:
        return RoundTrip(noise, None)
    returned = ddim(net, noise, schedule, stop=PICTURE_LEVEL, on_step=on_step, **keys).x
    return RoundTrip(noise, returned)


def picture_error(
    pictures: Float[Tensor, "batch *shape"], others: Float[Tensor, "batch *shape"]
) -> PictureError:
    """The error of each picture, summed in double precision."""
    difference = (pictures.double() - others.double()).flatten(1)
    return PictureError(difference.square().mean(1).sqrt(), difference.abs().amax(1))


def psnr(rmse: float) -> float:
    """The peak signal-to-noise ratio of an error in [-1, 1], in decibels; infinite for none."""
    return 20 * math.log10(2 / rmse) if rmse > 0 else math.inf
