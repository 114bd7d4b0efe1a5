"""PDAE (Zhang et al. 2022): a frozen diffusion network, and a code of what noise takes from it."""

from copy import copy
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone, Parts
from diffdict.backbones.autoencoders.shift_half import ShiftHalf
from diffdict.backbones.base import Backbone
from diffdict.backbones.denoiser import check_denoiser
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.diffusion.objectives import Net
from diffdict.diffusion.schedules import Schedule, eps_from_v, eps_from_x0, gather
from diffdict.diffusion.shift import SHIFTS, eps_slope, ode_eps, posterior_eps
from diffdict.errors import UserError


class Denoised(NamedTuple):
    """What both halves say of a noised picture; `Pdae.ode_net` and others put them together."""

    eps: Float[Tensor, "batch 3 height width"]  # the frozen network's, whatever it predicts
    gradient: Float[Tensor, "batch 3 height width"] | None  # None: without code


class Pdae(CodeBackbone):
    """A frozen U-Net, an encoder, and a shift half that fills the network's gap by the code."""

    def __init__(
        self,
        denoiser: Backbone,
        encoder: CodeBackbone,
        code: int = 512,
        *,
        segments: Parts = None,
        shift: str = "gradient",
        name: str = "pdae",
        checkpoint: str | None = None,
    ) -> None:
        """`segments` are the parts of the code that open with the noise (DiTi); None: PDAE.

        `shift`: what the shift half puts out, the published gradient, or a change of what the
        frozen network predicts, which has one size at every timestep.
        """
        super().__init__()
        if shift not in SHIFTS:
            raise UserError(
                f"shift is one of {', '.join(SHIFTS)}, got {shift!r}: gradient is published"
            )
        self.shift_output = shift
        self.name = name
        self.image_size = denoiser.image_size
        check_halves(denoiser, encoder, code)
        self.denoiser = denoiser.requires_grad_(False).eval()
        self.encoder = encoder
        self.shift = ShiftHalf(denoiser, code)
        self.name_blocks(code, segments)
        self.check_steps()
        self.load(checkpoint)

    def check_steps(self) -> None:
        """Parts open along the chain of the frozen network."""
        if self.segments is not None and self.segments.steps != self.denoiser.num_timesteps:
            raise UserError(
                f"segments open along the {self.denoiser.num_timesteps} timesteps of "
                f"{self.denoiser.name}, got steps={self.segments.steps}: give segments.steps="
                f"{self.denoiser.num_timesteps}"
            )

    def train(self, mode: bool = True) -> "Pdae":
        """The frozen network stays in evaluation: without dropout."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def codes(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch code"]:
        """One code a picture."""
        return self.encoder.codes(images)

    def with_halves(self, encoder: CodeBackbone, shift: ShiftHalf) -> "Pdae":
        """The same frozen network under others that learn; nothing is copied."""
        other = copy(self)
        other._modules = {"denoiser": self.denoiser, "encoder": encoder, "shift": shift}
        return other

    @no_type_check
    def forward(self, x_t: Tensor, t: Tensor, codes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the frozen network predicts, and what the shift half puts out."""
        skips, time = self.denoiser.way_down(x_t, t, None)
        prediction = self.denoiser.way_up(list(skips), time).to(x_t.dtype)[:, :3]
        if codes is None:
            return prediction, None
        return prediction, self.shift(skips, time, codes).to(x_t.dtype)

    def denoise(
        self,
        x_t: Float[Tensor, "batch 3 height width"],
        t: Int[Tensor, " batch"],
        codes: Float[Tensor, "batch code"] | None,
    ) -> Denoised:
        """Both halves at timesteps t, from one way down; without codes the frozen one alone.

        The codes are taken as they are: `opened` closes what is closed at t. Of a changed
        prediction the gradient is what the ODE makes of it.
        """
        prediction, added = self(x_t, t, codes)
        schedule, predict = self.denoiser.process, self.denoiser.predict
        position = t - self.denoiser.first_timestep
        eps = prediction
        if predict != "eps":
            of = {"x0": eps_from_x0, "v": eps_from_v}[predict]
            eps = of(schedule, x_t, position, prediction)
        if added is not None and self.shift_output == "prediction":
            slope = eps_slope(schedule, predict) / schedule.sqrt_one_minus_alphas_cumprod
            added = -gather(slope, position, added) * added
        return Denoised(eps, added)

    def opened(
        self, codes: Float[Tensor, "batch code"], t: Int[Tensor, " batch"], mode: str = "base"
    ) -> Float[Tensor, "batch code"]:
        """The codes as they are told at timesteps t: all of them, where they have no parts."""
        if self.segments is None:
            return codes
        return self.segments.opened(codes, t - self.denoiser.first_timestep, mode)

    def ode_eps(
        self, denoised: Denoised, t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The noise for ddim and ddim_invert."""
        if denoised.gradient is None:
            return denoised.eps
        position = t - self.denoiser.first_timestep
        return ode_eps(self.denoiser.process, *denoised, position)

    def posterior_eps(
        self, denoised: Denoised, t: Int[Tensor, " batch"], schedule: Schedule | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """The noise for training, one step to x_0, posterior means and ddpm.

        A respaced ancestral chain has coefficients of its own: `schedule` is that chain.
        """
        if denoised.gradient is None or self.shift_output == "prediction":
            return self.ode_eps(denoised, t)
        schedule = self.denoiser.process if schedule is None else schedule
        position = torch.searchsorted(schedule.timesteps.to(t.device), t)
        return posterior_eps(schedule, *denoised, position)

    def ode_net(self, codes: Float[Tensor, "batch code"] | None, until: int = 0) -> Net:
        """The network that ddim and ddim_invert ask: its noise, moved by codes as they open.

        Below the timestep `until` the frozen network is alone.
        """

        def net(x_t: Tensor, t: Tensor) -> Tensor:
            open_codes = None if codes is None or int(t[0]) < until else self.opened(codes, t)
            return self.ode_eps(self.denoise(x_t, t, open_codes), t)

        return net

    def posterior_net(
        self, codes: Float[Tensor, "batch code"] | None, schedule: Schedule | None = None
    ) -> Net:
        """The network that ddpm asks, along a respaced chain where it is given one."""

        def net(x_t: Tensor, t: Tensor) -> Tensor:
            open_codes = None if codes is None else self.opened(codes, t)
            return self.posterior_eps(self.denoise(x_t, t, open_codes), t, schedule)

        return net


def check_halves(denoiser: Backbone, encoder: CodeBackbone, code: int) -> None:
    """A frozen network that can be mirrored, and an encoder of its pictures."""
    check_denoiser(denoiser, "PDAE fills the gap of one")
    if not isinstance(denoiser, GuidedUNet):
        raise UserError(
            f"PDAE mirrors guided-diffusion's U-Net, and {denoiser.name} is another: "
            "backbone.denoiser is a guided_unet"
        )
    if denoiser.condition.classes is not None:
        raise UserError(
            f"PDAE tells a network what the picture is, and {denoiser.name} is told its class "
            "already: choose a network with class_cond=false"
        )
    if encoder.image_size != denoiser.image_size:
        raise UserError(
            f"PDAE's halves see the same pictures, got a network of image_size="
            f"{denoiser.image_size} and an encoder of {encoder.image_size}: give both one size"
        )
    if encoder.shapes["code"][0] != code:
        raise UserError(
            f"code is what the encoder makes, {encoder.shapes['code'][0]} numbers, got {code}: "
            f"say code={encoder.shapes['code'][0]}, or another encoder"
        )
