"""RGB and position as a backbone: the floor that every network's features are compared with."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.errors import UserError


class Pixels(Backbone):
    """One block, `pixels`: red, green, blue, and the row and column of the pixel in [-1, 1]."""

    def __init__(
        self, image_size: int, *, name: str = "pixels", checkpoint: str | None = None
    ) -> None:
        super().__init__()
        if checkpoint is not None:
            raise UserError(f"backbone=pixels has no weights, got checkpoint={checkpoint}: drop it")
        self.name = name
        self.image_size = image_size
        self.shapes = {"pixels": (5, image_size, image_size)}

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """The images themselves with two channels of position; noise is not used."""
        self.chosen(blocks)
        self.check_timestep(timestep)
        batch, _, height, width = images.shape
        rows = centres(height, images)[:, None].expand(batch, 1, height, width)
        columns = centres(width, images).expand(batch, 1, height, width)
        return {"pixels": torch.cat([images, rows, columns], dim=1)}


def centres(size: int, like: Tensor) -> Float[Tensor, "size"]:
    """Pixel centres along a side of [-1, 1], in the dtype and on the device of another tensor."""
    return (torch.arange(size, device=like.device) * 2 + 1).to(like.dtype) / size - 1
