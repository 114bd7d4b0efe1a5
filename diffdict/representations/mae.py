"""MAE's encoder as a representation: its class token, or the mean of its patches, normed."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import combined_sha256
from diffdict.backbones.mae import MAE
from diffdict.errors import UserError
from diffdict.representations.base import Representation

PARTS = ("cls", "mean")


class MAEVector(Representation):
    """What the whole encoder says of a picture."""

    def __init__(self, backbone: MAE, part: str = "cls", *, name: str | None = None) -> None:
        """`backbone` brings its weights, and the side of its pictures."""
        super().__init__()
        if not isinstance(backbone, MAE):
            raise UserError(f"representation=mae looks through an MAE, got {backbone.name}")
        if part not in PARTS:
            raise UserError(f"part of mae is {' or '.join(PARTS)}, got {part!r}")
        self.backbone, self.part = backbone, part
        self.image_size = backbone.image_size
        self.name = name or f"{backbone.name}_{part}"
        self.freeze(backbone.norm.weight.shape[0])

    @property
    def sha256(self) -> str:
        """Of the encoder, and which part of it."""
        return combined_sha256(self.backbone.sha256, self.part, str(self.backbone.normalise))

    @torch.no_grad()
    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The vector of every picture in [-1, 1]."""
        self.check_pictures(images)
        tokens = self.backbone(images)
        return tokens[:, 0] if self.part == "cls" else tokens[:, 1:].mean(1)
