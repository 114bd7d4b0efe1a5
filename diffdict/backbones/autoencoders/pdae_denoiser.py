"""A PDAE as samplers ask for it: a denoiser that is told a code, opened as the noise falls."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.denoiser import Condition, Denoiser, Edits, Given, check_denoiser
from diffdict.backbones.pdae import Denoised, Pdae
from diffdict.diffusion.chains.inversion import PICTURE_LEVEL
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, ddim_invert, ddpm
from diffdict.diffusion.schedules import Schedule, respace
from diffdict.errors import UserError

PICTURE_SET = "linspace"  # PDAE's chains, whose first point is taken for the picture


class PdaeDenoiser(Denoiser):
    """The frozen network's noise with its code's gradient; without a vector the former alone.

    Where no vector is told the shift half is not computed.
    """

    def __init__(self, pdae: Pdae, chain: Schedule | None = None, masked: bool = True) -> None:
        """`chain` of an ancestral sampler sizes the gradient of its posterior; None: the ODE's.

        `masked`: a code with parts is told as in training, up to the part of the timestep.
        """
        super().__init__()
        self.pdae, self.chain, self.masked = pdae, chain, masked
        self.name, self.image_size, self.shapes = pdae.name, pdae.image_size, pdae.shapes
        self.process, self.predict = pdae.denoiser.process, "eps"
        self.dim = pdae.shapes["code"][0]
        self.condition = Condition(width=self.dim)

    @property
    def sha256(self) -> str:
        """Of both halves and the encoder."""
        return self.pdae.sha256

    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch code"]:
        """One code a picture."""
        return self.pdae.codes(images)

    def opened(
        self, codes: Float[Tensor, "batch code"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch code"]:
        """The codes as they are told at timesteps t."""
        return self.pdae.opened(codes, t) if self.masked else codes

    def guided(
        self, halves: Denoised, t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The noise moved by the gradient, as far as the sampler's chain says."""
        if self.chain is None:
            return self.pdae.ode_eps(halves, t)
        return self.pdae.posterior_eps(halves, t, self.chain)

    def forward(
        self,
        x_t: Float[Tensor, "batch 3 height width"],
        t: Int[Tensor, " batch"],
        given: Given | Tensor | None = None,
        edits: Edits | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """The noise at timesteps t, with the gradient of the codes that are given."""
        self.check_edits(edits)
        codes = given.vector if isinstance(given, Given) else None
        open_codes = None if codes is None else self.opened(codes, t)
        return self.guided(self.pdae.denoise(x_t, t, open_codes), t)

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Those of the PDAE."""
        return self.pdae.features(images, timestep, blocks, noise)


class Drawing(NamedTuple):
    """A network that draws, how its answers are read, and the sampler's last level (None: -1)."""

    net: Denoiser
    objective: Objective
    stop: int | None = None
    facts: Mapping[str, object] = MappingProxyType({})  # what changes a pixel and no hash says


def drawing_network(
    net: Backbone, sampler: partial, objective: Objective, purpose: str, masked: bool = True
) -> Drawing:
    """Of a PDAE both halves, whose answer is noise; any other denoiser as it is.

    A PDAE's own chains (linspaceN) end as published where the picture is taken for: at their first
    point.
    """
    if not isinstance(net, Pdae):
        return Drawing(check_denoiser(net, purpose, latents=True), objective)
    if sampler.func not in (ddim, ddim_invert, ddpm):
        raise UserError(
            f"{net.name} is drawn by ddim or ddpm, whose steps its code knows, not by "
            f"{sampler.func.__name__}: sampler=ddim"
        )
    respacing = sampler.keywords.get("respacing", "")
    chain = respace(net.denoiser.process, respacing) if sampler.func is ddpm else None
    noise = replace(objective, predict="eps", variance="fixed_small")
    stop = PICTURE_LEVEL if str(respacing).startswith(PICTURE_SET) else None
    facts = {"segments": str(net.segments), "masked": masked}
    return Drawing(PdaeDenoiser(net, chain, masked), noise, stop, facts)
