"""A representation: a frozen network that makes one vector of a picture."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.errors import UserError

VECTOR, MIRRORED = "vector", "mirrored"  # its blocks: of the picture, and of it in a mirror


class Representation(Backbone):
    """One vector a picture; as a backbone, maps of 1 × 1. Its constructor ends with `freeze`.

    `image_size` is the side of the pictures that it is shown; None: as they come.
    """

    image_size: int | None
    dim: int

    @abstractmethod
    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The vector of every picture in [-1, 1]."""

    def other_noise(self) -> "Representation | None":
        """The same one, which looks through another noise; None: it looks through none."""
        return None

    def freeze(self, dim: int) -> None:
        """It never trains, and its vectors are so wide."""
        self.dim = dim
        self.shapes = {VECTOR: (dim, 1, 1), MIRRORED: (dim, 1, 1)}
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Representation":
        """Batch norms stay as they were learned, whatever it is part of."""
        return super().train(False)

    def chosen(self, blocks: Block | Sequence[Block] | None) -> list[Block]:
        """As any backbone's, but None is the vector alone."""
        return super().chosen(VECTOR if blocks is None else blocks)

    @torch.no_grad()
    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """The vectors as maps of one position; noise is the representation's own affair."""
        self.check_timestep(timestep)
        shown = {VECTOR: lambda: images, MIRRORED: lambda: images.flip(-1)}
        return {
            block: self.vectors(shown[block]())[:, :, None, None] for block in self.chosen(blocks)
        }

    def check_pictures(self, images: Tensor) -> None:
        """Pictures of the side that it is shown."""
        if self.image_size is not None and images.shape[2:] != (self.image_size,) * 2:
            raise UserError(
                f"{self.name} is shown pictures of {self.image_size}×{self.image_size}, got "
                f"{images.shape[2]}×{images.shape[3]}: dataset.image_size={self.image_size} for "
                "what it sees"
            )
