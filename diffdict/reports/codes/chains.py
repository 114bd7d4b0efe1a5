"""Pictures into noise and back under their codes: many chains at once, along the same steps."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.autoencoders.pdae_denoiser import PdaeDenoiser
from diffdict.backbones.denoiser import Given
from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.chains.inversion import PICTURE_LEVEL, steps_one_way
from diffdict.diffusion.objectives import Net, Objective
from diffdict.diffusion.samplers import ddim, ddim_invert
from diffdict.diffusion.schedules import Respacing
from diffdict.errors import at_least

NOISE = Objective(variance="fixed_small")  # what both halves answer together


class Chains:
    """DDIM both ways along one chain; a chain's picture does not depend on those beside it."""

    def __init__(
        self, pdae: Pdae, respacing: Respacing, batch: int = 64, clip_denoised: bool = False
    ) -> None:
        """`batch`: chains that run at once."""
        steps_one_way(pdae.denoiser.process, respacing)
        at_least(1, "report", batch=batch)
        self.net, self.batch = PdaeDenoiser(pdae), batch
        self.options = {
            "objective": NOISE,
            "respacing": respacing,
            "clip_denoised": clip_denoised,
        }

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.pdae.parameters()).device

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n code"]:
        """One code a picture."""
        return torch.cat([self.net.vectors(part) for part in images.split(self.batch)])

    def invert(
        self, images: Float[Tensor, "n 3 side side"], codes: Float[Tensor, "n code"]
    ) -> Float[Tensor, "n 3 side side"]:
        """The noise that draws these pictures again with their codes."""
        return self._each(ddim_invert, images, self.told, codes, start=PICTURE_LEVEL)

    def draw(
        self,
        noise: Float[Tensor, "n 3 side side"],
        codes: Float[Tensor, "n code"],
        told: Callable[[Tensor], Net] | None = None,
    ) -> Float[Tensor, "n 3 side side"]:
        """Pictures from noise and codes; `told`: another network for some codes."""
        return self._each(ddim, noise, told or self.told, codes, stop=PICTURE_LEVEL)

    def told(self, codes: Float[Tensor, "n code"]) -> Net:
        """The network under these codes."""
        return lambda x, t: self.net(x, t, Given(vector=codes))

    def _each(
        self,
        sampler: Callable,
        x: Tensor,
        net_of: Callable[[Tensor], Net],
        codes: Tensor,
        **ends: int,
    ) -> Tensor:
        """The sampler over all chains, so many at once."""
        process = self.net.process
        parts = zip(x.split(self.batch), codes.split(self.batch), strict=True)
        return torch.cat(
            [
                sampler(net_of(part_codes), part, process, **self.options, **ends).x
                for part, part_codes in parts
            ]
        )
