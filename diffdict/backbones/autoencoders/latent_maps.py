"""The latents that a network looks at as features: one block, no noise, the autoencoder alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block, Timestep
from diffdict.backbones.denoiser import Denoiser
from diffdict.errors import UserError

BLOCK = "latents"


class LatentMaps(Backbone):
    """What `net` makes of pictures before any noise; stored once, several extractions read it."""

    def __init__(self, net: Backbone, name: str | None = None) -> None:
        """`name`: of the store; None: the network's, and _latents."""
        super().__init__()
        picture = (3, net.image_size, net.image_size)
        if not isinstance(net, Denoiser) or net.encoder is None:
            raise UserError(
                f"{net.name} looks at pictures as they are, and task=latents stores what an "
                "autoencoder makes of them: a network of latents, such as backbone=hub"
            )
        self.net, self.name = net, name or latents_name(net.name)
        self.image_size, self.shapes = net.image_size, {BLOCK: net.noise_shape(picture)}

    @property
    def sha256(self) -> str:
        """Of the autoencoder, and of how it is asked."""
        return self.net.encoder.view_sha256

    @torch.no_grad()
    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: Timestep = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """The pictures' latents."""
        self.chosen(blocks)
        return {BLOCK: self.net.prepared(images)}


def latents_name(backbone: str) -> str:
    """What the store of a network's latents is called."""
    return f"{backbone}_{BLOCK}"
