"""RCDM (Bordes et al. 2022): guided-diffusion's U-Net told a vector that represents a picture."""

from typing import no_type_check

import torch
from torch import Tensor, nn

from diffdict import checkpoints
from diffdict.backbones.denoiser import Given
from diffdict.backbones.guided_layers import WideLinear
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.errors import UserError

LAYER = "ssl_emb."  # how its one layer more begins, in the original's files too
# what a run of task=rcdm says of itself in its checkpoint and in the weights that it exports
LEARNED_WITH = ("representation_name", "representation_sha256", "representation_image_size", "drop")
RECIPE = "representation_recipe"  # its config as JSON, in exported weights
PART = " (representation.part=head where it was a head)"


class RCDM(GuidedUNet):
    """Embedding of time + `ssl_emb(vector)`; without a vector it is the U-Net itself.

    Weights of an unconditional U-Net start one: `ssl_emb` is then zero, and draws what they draw.
    `learned_with` is what its file says of the representation.
    """

    def __init__(
        self, *args, ssl_dim: int | None = None, checkpoint: str | None = None, **kwargs
    ) -> None:
        """`ssl_dim`: the vector's width; None: the checkpoint's, or it waits for `widen`."""
        kwargs.setdefault("name", "rcdm")
        super().__init__(*args, checkpoint=None, **kwargs)
        if ssl_dim is not None and ssl_dim < 1:
            raise UserError(f"ssl_dim is the width of a vector, at least 1, got {ssl_dim}: 2048")
        self.ssl_dim, self.learned_with = ssl_dim, {}
        self._set_width(ssl_dim)
        self.load(checkpoint)

    def load(self, checkpoint: str | None) -> None:
        """A file of an RCDM, or of the same U-Net unconditional."""
        if checkpoint is None:
            return
        weights = checkpoints.load_state_dict(checkpoint)
        held = weights.state.get(f"{LAYER}weight")
        width = None if held is None else held.shape[1]
        if None not in (width, self.ssl_dim) and width != self.ssl_dim:
            raise UserError(
                f"{checkpoint} takes vectors of width {width}, got ssl_dim={self.ssl_dim}: leave "
                f"ssl_dim out, or choose the representation it learned with{PART}"
            )
        self._set_width(width)
        checkpoints.load_strictly(self, weights.state, weights.path)
        self._file_sha256 = weights.sha256
        self.learned_with = {
            key: str(weights.facts[key]) for key in LEARNED_WITH if key in weights.facts
        }
        if width is None and self.ssl_dim is not None:
            self.widen(self.ssl_dim)

    def widen(self, width: int) -> None:
        """Makes it take vectors so wide, which say nothing yet; one that takes others refuses."""
        if self.condition.width is None:
            self._set_width(width)
            nn.init.zeros_(self.ssl_emb.weight)
            nn.init.zeros_(self.ssl_emb.bias)
            self._file_sha256 = None
        elif self.condition.width != width:
            raise UserError(
                f"{self.name} takes vectors of width {self.condition.width}, the representation "
                f"gives {width}: choose the one it learned with{PART}, or weights of another"
            )

    @no_type_check
    def embedding(self, t: Tensor, given: Given) -> Tensor:
        """Time, and the vector's and the label's where there are such."""
        embedding = super().embedding(t, given)
        if given.vector is None:
            return embedding
        if given.vector.ndim > 1 and len(given.vector) not in (1, len(t)):
            raise UserError(
                f"{self.name} takes one vector a picture, or one for all, got {len(given.vector)} "
                f"for {len(t)} pictures: repeat or cut them"
            )
        vector_embedding = self.ssl_emb(given.vector)
        if given.told is not None:
            vector_embedding = torch.where(given.told[:, None], vector_embedding, 0)
        return embedding + vector_embedding

    def _set_width(self, width: int | None) -> None:
        """A fresh layer for vectors so wide, where the original's files have it; None: no layer."""
        after = {name: self._modules.pop(name) for name in list(self._modules)[1:]}
        after.pop("ssl_emb", None)
        if width is not None:
            like = self.time_embed[0].weight
            self.ssl_emb = WideLinear(width, self.flags.embedding).to(like.device, like.dtype)
        self._modules.update(after)
        self.condition = self.condition._replace(width=width, optional=True)
