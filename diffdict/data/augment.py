"""EDM's augmentation (Karras et al. 2022, appendix F.2): one affine map a picture, and its labels.

Written from the paper's description. Pictures are resampled at twice their resolution: the filters
that lead there and back are a biorthogonal pair (Cohen, Daubechies & Feauveau 1992, 9/7), odd and
symmetric, so that quarter turns, flips and whole-pixel shifts lose nothing.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError

UP = (1.115087052456994, 0.591271763114247, -0.057543526228500, -0.091271763114250)
DOWN = (
    *(0.602949018236358, 0.266864118442872, -0.078223266528990),
    *(-0.016864118442875, 0.026748757410810),
)  # both from the middle outwards; UP's sum is 2, DOWN's is 1
STRETCH = 0.2  # deviation of scale and anisotropy, in powers of two
SHIFT = 1 / 8  # deviation of the translation, of the side


class AugmentDraws(NamedTuple):
    """What happens to each picture; 0 where a transformation is switched off."""

    x_flip: Float[Tensor, " batch"]
    y_flip: Float[Tensor, " batch"]
    scale: Float[Tensor, " batch"]
    angle: Float[Tensor, " batch"]  # counter-clockwise, in radians
    stretch: Float[Tensor, " batch"]
    frame: Float[Tensor, " batch"]  # the direction of the stretch
    x_shift: Float[Tensor, " batch"]
    y_shift: Float[Tensor, " batch"]

    @property
    def labels(self) -> Float[Tensor, "batch 9"]:
        """The nine numbers that a network is told."""
        return torch.stack(
            [
                *(self.x_flip, self.y_flip, self.scale),
                *(self.angle.cos() - 1, self.angle.sin()),
                *(self.stretch * self.frame.cos(), self.stretch * self.frame.sin()),
                *(self.x_shift, self.y_shift),
            ],
            dim=1,
        )

    @property
    def matrices(self) -> Float[Tensor, "batch 3 3"]:
        """From the picture to its image, x to the right, y down, the side 1, about the centre."""
        grown, longer = 2 ** (STRETCH * self.scale), 2 ** (STRETCH * self.stretch)
        return (
            shifts(SHIFT * self.x_shift, SHIFT * self.y_shift)
            @ (rotations(self.frame) @ scales(longer, 1 / longer) @ rotations(-self.frame))
            @ rotations(-self.angle)
            @ scales(grown, grown)
            @ scales(1 - 2 * self.x_flip, 1 - 2 * self.y_flip)
        )


class Augment:
    """Flips, scales, rotations, stretches and shifts, each with this probability.

    Flips of left and right are always drawn, as EDM does, unless the probability is 0.
    """

    labels = 9

    def __init__(self, probability: int | float = 0.12) -> None:
        if not 0 <= probability <= 1:
            raise UserError(f"probability lies in [0, 1], got {probability}: 0.12 is usual")
        self.probability = probability

    def __call__(
        self, images: Float[Tensor, "batch channels side side"], seeds: Sequence[int]
    ) -> tuple[Float[Tensor, "batch channels side side"], Float[Tensor, "batch 9"]]:
        """The pictures as their seeds say, and what they are labelled with."""
        draws = self.draw(seeds)
        return (
            transformed(images, draws.matrices.to(images.device)),
            draws.labels.to(images.device, torch.float32),
        )

    def draw(self, seeds: Sequence[int]) -> AugmentDraws:
        """What happens to the pictures of these seeds, on any device the same."""
        uniform, normal = [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            uniform.append(torch.rand(10, generator=generator, dtype=torch.float64))
            normal.append(torch.randn(4, generator=generator, dtype=torch.float64))
        x_flip, y_flip, angle, frame, turned, *switches = torch.stack(uniform).unbind(1)
        scale, stretch, x_shift, y_shift = torch.stack(normal).unbind(1)
        on = [(switch < self.probability).double() for switch in switches]
        return AugmentDraws(
            x_flip=(x_flip < 0.5).double() * (self.probability > 0),
            y_flip=(y_flip < 0.5).double() * on[0],
            scale=scale * on[1],
            angle=(2 * angle - 1) * math.pi * on[2],
            stretch=stretch * on[3],
            frame=(2 * frame - 1) * math.pi * (turned < 0.5) * on[3],
            x_shift=x_shift * on[4],
            y_shift=y_shift * on[4],
        )


def transformed(
    images: Float[Tensor, "batch channels side side"], matrices: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch channels side side"]:
    """The pictures under these maps, reflected beyond their borders; an identity changes no bit."""
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    moved = (matrices != identity).flatten(1).any(1)
    if not moved.any():
        return images
    some = images[moved].float()
    side, margin = some.shape[-1], len(DOWN) - 1
    fine = doubled(some)
    span = (side - 1) / side  # of the pixels' centres, the side being 1
    at = torch.arange(-margin, 2 * side - 1 + margin, device=images.device, dtype=matrices.dtype)
    at = (at / (2 * side - 2) - 0.5) * span
    y, x = torch.meshgrid(at, at, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    sources = places @ matrices[moved].inverse().mT[:, None]
    grid = (2 / span * sources[..., :2]).to(some.dtype)
    fine = F.grid_sample(fine, grid, padding_mode="reflection", align_corners=True)
    result = images.clone()
    result[moved] = halved(fine).to(images.dtype)
    return result


def doubled(images: Float[Tensor, "n c side side"]) -> Float[Tensor, "n c fine fine"]:
    """2 · side − 1 pixels a side: those that there are, filtered, and one between each two."""
    margin = len(UP) // 2
    images = F.pad(images, [margin] * 4, mode="reflect")
    spread = images.new_zeros(*images.shape[:2], *(2 * n - 1 for n in images.shape[2:]))
    spread[..., ::2, ::2] = images
    cut = 2 * margin - (len(UP) - 1)  # what the margin has too much
    spread = spread[..., cut : spread.shape[-2] - cut, cut : spread.shape[-1] - cut]
    return filtered(spread, UP, stride=1)


def halved(images: Float[Tensor, "n c fine fine"]) -> Float[Tensor, "n c side side"]:
    """Every second pixel, after the filter that undoes `doubled`."""
    return filtered(images, DOWN, stride=2)


def filtered(
    images: Float[Tensor, "n c height width"], half: Sequence[float], stride: int
) -> Float[Tensor, "n c _ _"]:
    """Convolved with a symmetric filter along both axes; the margin that it needs is lost."""
    taps = images.new_tensor([*half[:0:-1], *half])
    flat = images.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, taps.view(1, 1, -1, 1), stride=(stride, 1))
    flat = F.conv2d(flat, taps.view(1, 1, 1, -1), stride=(1, stride))
    return flat.view(*images.shape[:2], *flat.shape[2:])


def rotations(angle: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    """From x towards y, which is clockwise as y goes down."""
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _matrices([cos, -sin, none], [sin, cos, none])


def scales(x: Float[Tensor, " batch"], y: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    """Longer by these factors."""
    none = torch.zeros_like(x)
    return _matrices([x, none, none], [none, y, none])


def shifts(x: Float[Tensor, " batch"], y: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    """Moved by so much."""
    none, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrices([one, none, x], [none, one, y])


def _matrices(first: list[Tensor], second: list[Tensor]) -> Float[Tensor, "batch 3 3"]:
    last = [torch.zeros_like(first[0]), torch.zeros_like(first[0]), torch.ones_like(first[0])]
    return torch.stack([torch.stack(row, dim=1) for row in (first, second, last)], dim=1)
