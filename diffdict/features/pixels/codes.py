"""Pixels as a dictionary sees them: the codes of upsampled features, made when they are asked for.

Features are upsampled and then encoded: codes that are upsampled are another measure.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.bilinear.maps import NativeMaps
from diffdict.sae.base import Sae
from diffdict.sae.sparse import weighted_rows

PIECE = 2**23  # pre-activations at once: 32 MiB


class CodedMaps:
    """Maps of some pictures, read at any pixel as a dictionary's codes, one channel a latent."""

    def __init__(self, maps: NativeMaps, sae: Sae) -> None:
        self.maps, self.sae = maps, sae

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.maps.size

    @property
    def channels(self) -> int:
        """Width of a pixel."""
        return self.sae.latents

    def to(self, device: torch.device | str) -> "CodedMaps":
        """The same on another device, the dictionary too."""
        return CodedMaps(self.maps.to(device), self.sae.to(device))

    @torch.no_grad()
    def gather(
        self, picture: Int[Tensor, "pixels"], y: Int[Tensor, "pixels"], x: Int[Tensor, "pixels"]
    ) -> Float[Tensor, "pixels channels"]:
        """These pixels' codes."""
        step = max(1, PIECE // self.channels)
        features = self.maps.gather(picture, y, x)
        return torch.cat([self.sae.encode(some) for some in features.split(step)])

    @torch.no_grad()
    def linear(
        self, index: int, weight: Float[Tensor, "out channels"], chunk: int = 1024
    ) -> Iterator[tuple[slice, Float[Tensor, "pixels out"]]]:
        """All pixels of one picture times `weight`, some rows of about `chunk` pixels at a time.

        Pre-activations are affine, so tokens are encoded and what comes of them is upsampled; and
        a pixel costs its active latents alone.
        """
        slope = self.sae.W_enc * self.sae.token_scale
        start = self.sae.pre(slope.new_zeros(1, slope.shape[1]))
        rows, chunk = weight.T.contiguous(), min(chunk, PIECE // self.channels)
        for place, pre in self.maps.linear(index, slope, chunk):
            codes = self.sae.activate(pre.add_(start))
            pixel, latent = codes.nonzero(as_tuple=True)
            counts = torch.bincount(pixel, minlength=len(codes))
            starts = F.pad(counts.cumsum(0), (1, 0))
            yield place, weighted_rows(rows, latent, starts, codes[pixel, latent])


PixelMaps = NativeMaps | CodedMaps
