"""Inception v3 as FID knows it (Szegedy et al. 2016, Heusel et al. 2017), by pytorch-fid's keys.

torch.compile traces all of this, which a run-time type checker would interrupt: no_type_check.
"""

from collections.abc import Sequence
from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.base import Backbone, Block
from diffdict.errors import UserError

SIZE = 299  # side to which all pictures are resized
CLASSES = 1008  # rows of the classifier in the published file, which FID does not use
SPATIAL = "spatial"  # what sFID compares: the first channels of Mixed_6d, place by place
SPATIAL_CHANNELS = 7
SHAPES = {
    64: (64, 73, 73),
    192: (192, 35, 35),
    SPATIAL: (SPATIAL_CHANNELS * 17**2, 1, 1),
    768: (768, 17, 17),
    2048: (2048, 1, 1),
}
STAGES = {  # what leads to each block, by the original's names
    64: ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "pool"),
    192: ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "pool"),
    SPATIAL: (
        *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
    ),
    768: ("Mixed_6e",),
    2048: ("Mixed_7a", "Mixed_7b", "Mixed_7c", "mean"),
}


class Inception(Backbone):
    """Blocks are pytorch-fid's, by their channels; 2048 is the vector that FID compares.

    `spatial` is that of sFID (Nash et al. 2021), in the order of published statistics.
    """

    def __init__(
        self, *, image_size: int = SIZE, name: str = "inception", checkpoint: str | None = None
    ) -> None:
        """Pictures of any size are resized; `image_size` is what they come in."""
        super().__init__()
        if image_size < 1:
            raise UserError(f"image_size is 1 or more, got {image_size}: {SIZE} is its own")
        self.name, self.image_size, self.shapes = name, image_size, dict(SHAPES)
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = MixedA(192, 32)
        self.Mixed_5c = MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = ReductionA(288)
        self.Mixed_6b = MixedB(128)
        self.Mixed_6c = MixedB(160)
        self.Mixed_6d = MixedB(160)
        self.Mixed_6e = MixedB(192)
        self.Mixed_7a = ReductionB(768)
        self.Mixed_7b = MixedC(1280, average)
        self.Mixed_7c = MixedC(2048, largest)
        self.fc = nn.Linear(2048, CLASSES)
        self.load(checkpoint)

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Resized to 299 × 299 as pytorch-fid does, bilinear without antialiasing; no noise."""
        self.check_timestep(timestep)
        wanted, maps = self.chosen(blocks), {}
        x = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = x.to(self.fc.weight.dtype)
        for block, stages in STAGES.items():
            for stage in stages:
                x = self._stage(stage, x)
            if block in wanted:
                maps[block] = spatial(x) if block == SPATIAL else x
            if block == wanted[-1]:
                break
        return maps

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2048"]:
        """The vector that FID compares, of pictures in [-1, 1]."""
        return self.features(images, blocks=[2048])[2048].flatten(1)

    def class_shares(self, vectors: Float[Tensor, "batch 2048"]) -> Float[Tensor, "batch classes"]:
        """The probability of each of its classes, without the classifier's bias, as published."""
        return F.linear(vectors.to(self.fc.weight.dtype), self.fc.weight).softmax(1)

    def _stage(self, name: str, x: Tensor) -> Tensor:
        """A layer by its name, or one of the two without weights."""
        if name == "pool":
            return F.max_pool2d(x, 3, 2)
        return x.mean((2, 3), keepdim=True) if name == "mean" else getattr(self, name)(x)


def spatial(x: Float[Tensor, "batch channels 17 17"]) -> Float[Tensor, "batch _ 1 1"]:
    """Row after row, the channels of each place together."""
    return x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)[:, :, None, None]


@no_type_check
class Unit(nn.Module):
    """A convolution, its norm, ReLU."""

    def __init__(self, channels: int, out: int, kernel, stride: int = 1, padding=0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


@no_type_check
def average(x: Tensor) -> Tensor:
    """Means of 3 × 3 places, without those beyond the border."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


@no_type_check
def largest(x: Tensor) -> Tensor:
    """Maxima of 3 × 3 places."""
    return F.max_pool2d(x, 3, 1, 1)


@no_type_check
def conv1x7(channels: int, out: int) -> Unit:
    """A convolution of 1 × 7 that keeps the size."""
    return Unit(channels, out, (1, 7), padding=(0, 3))


@no_type_check
def conv7x1(channels: int, out: int) -> Unit:
    """A convolution of 7 × 1 that keeps the size."""
    return Unit(channels, out, (7, 1), padding=(3, 0))


@no_type_check
class MixedA(nn.Module):
    """35 × 35: one by one, five by five, twice three by three, and a pool."""

    def __init__(self, channels: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(channels, 64, 1)
        self.branch5x5_1 = Unit(channels, 48, 1)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], dim=1)


@no_type_check
class ReductionA(nn.Module):
    """35 × 35 to 17 × 17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], dim=1)


@no_type_check
class MixedB(nn.Module):
    """17 × 17: seven by seven in two steps and in four, `width` channels between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(768, 192, 1)
        self.branch7x7_1 = Unit(768, width, 1)
        self.branch7x7_2 = conv1x7(width, width)
        self.branch7x7_3 = conv7x1(width, 192)
        self.branch7x7dbl_1 = Unit(768, width, 1)
        self.branch7x7dbl_2 = conv7x1(width, width)
        self.branch7x7dbl_3 = conv1x7(width, width)
        self.branch7x7dbl_4 = conv7x1(width, width)
        self.branch7x7dbl_5 = conv1x7(width, 192)
        self.branch_pool = Unit(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], dim=1)


@no_type_check
class ReductionB(nn.Module):
    """17 × 17 to 8 × 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(channels, 192, 1)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(channels, 192, 1)
        self.branch7x7x3_2 = conv1x7(192, 192)
        self.branch7x7x3_3 = conv7x1(192, 192)
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, 2)], dim=1)


@no_type_check
class MixedC(nn.Module):
    """8 × 8: branches that end side by side; `pool` is the mean, in the last one the maximum."""

    def __init__(self, channels: int, pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Unit(channels, 320, 1)
        self.branch3x3_1 = Unit(channels, 384, 1)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(channels, 448, 1)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        sides = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        sides += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *sides, self.branch_pool(self.pool(x))], dim=1)
