"""DDAE's noise-conditional WideResNet (Xiang et al. 2023), a classifier of noised pictures.

torch.compile traces all of this, which a run-time type checker would interrupt: no_type_check.
"""

import math
from collections.abc import Iterator, Sequence
from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.ddae_unet import linear_chain
from diffdict.backbones.guided_layers import GroupNorm, WideLinear
from diffdict.diffusion.edm import Levels
from diffdict.diffusion.process import Process, noised_at
from diffdict.diffusion.schedules import gather
from diffdict.errors import UserError

FIRST = 16  # channels of the first convolution; its groups have 1, 2 and 4 times as many, widened
MOST_ODD = 7  # the largest odd multiple of them that the groups of its norms divide
FREQUENCIES = 128
EMBEDDING = 512  # width of what the blocks are told of the noise
FRAMEWORKS = ("ddpm", "edm")
GROUPS = {"group1": 1, "group2": 2, "group3": 4}  # how many times as wide as the first


class WideResNet(Backbone):
    """WRN-28-10 unless told: three groups of blocks; blocks are group1, group2 and group3.

    Timesteps are those of DDAE's networks: 1 … 1000 of ddpm's chain, 1 … 18 of edm's levels.
    """

    first_timestep = 1

    def __init__(
        self,
        blocks_per_group: int = 4,
        channel_multiplier: int = 10,
        num_classes: int = 10,
        framework: str = "ddpm",
        *,
        image_size: int = 32,
        name: str = "wide_resnet",
        checkpoint: str | None = None,
    ) -> None:
        """`framework` says which noise it classifies under: ddpm's chain or edm's levels."""
        super().__init__()
        for flag, value in (
            ("blocks_per_group", blocks_per_group),
            ("channel_multiplier", channel_multiplier),
            ("num_classes", num_classes),
        ):
            if value < 1:
                raise UserError(f"{name}'s {flag} is 1 or more, got {value}")
        if channel_multiplier > MOST_ODD and channel_multiplier % 2:
            raise UserError(
                f"{name}'s channel_multiplier must be even above {MOST_ODD}, for the 32 groups of "
                f"its norms, got {channel_multiplier}: 10 is usual"
            )
        if framework not in FRAMEWORKS:
            raise UserError(f"framework is {' or '.join(FRAMEWORKS)}, got {framework!r}")
        if image_size < 4 or image_size % 4:
            raise UserError(f"image_size must be a multiple of 4, got {image_size}")
        self.name, self.image_size, self.framework = name, image_size, framework
        self.process = made_process(framework)
        self.num_timesteps = self.process.steps
        self.time_emb = Fourier()
        self.time_emb_mlp = nn.Sequential(
            WideLinear(2 * FREQUENCIES, EMBEDDING), nn.SiLU(), WideLinear(EMBEDDING, EMBEDDING)
        )
        self.init_conv = convolution(3, FIRST)
        channels, side, self.shapes = FIRST, image_size, {}
        for group, factor in GROUPS.items():
            width, stride = FIRST * factor * channel_multiplier, 1 if factor == 1 else 2
            setattr(self, group, Group(channels, width, blocks_per_group, stride, factor == 1))
            channels, side = width, side // stride
            self.shapes[group] = (channels, side, side)
        self.pre_pool_bn = activation(channels)
        self.final_linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        self.load(checkpoint)

    @no_type_check
    def forward(
        self, x_t: Float[Tensor, "batch 3 height width"], time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of noised pictures; `time` is what `told` makes of their timesteps."""
        for _, x in self._maps(x_t, time):  # noqa: B007 - the last one goes on
            pass
        return self.final_linear(self.pre_pool_bn(x).mean((2, 3)))

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Groups of one pass over images noised to the timestep, which ends with the last one."""
        self.check_timestep(timestep)
        wanted, maps = self.chosen(blocks), {}
        x_t, t = noised_at(self.process, images, timestep, noise)
        for group, x in self._maps(x_t, self.told(t)):
            if group in wanted:
                maps[group] = x
            if group == wanted[-1]:
                break
        return maps

    def told(self, t: Int[Tensor, " batch"] | Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """What it is told at these timesteps: the share of ddpm's chain, or ln sigma of edm.

        Of edm they may be noise levels themselves, where they are no integers.
        """
        if t.is_floating_point():
            return t.log()
        if self.framework == "ddpm":
            return t.float() / self.process.steps
        like = torch.empty(len(t), dtype=torch.float32, device=t.device)
        return gather(self.process.noise_levels.log(), t - self.first_timestep, like)

    @no_type_check
    def _maps(self, x_t: Tensor, time: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each group's name and map as the pass comes to it."""
        if x_t.shape[2] % 4 or x_t.shape[3] % 4:
            raise UserError(
                f"{self.name} takes pictures whose sides are divisible by 4, got "
                f"{x_t.shape[2]}×{x_t.shape[3]}: resize or crop them"
            )
        embedding = self.time_emb_mlp(self.time_emb(time))
        x = self.init_conv(standardised(x_t).to(self.init_conv.weight.dtype))
        for group in GROUPS:
            x = getattr(self, group)(x, embedding.to(x.dtype))
            yield group, x


def made_process(framework: str) -> Process:
    """The noise that DDAE's networks of this framework undo."""
    return linear_chain(1000, (1e-4, 0.02)) if framework == "ddpm" else Levels()


@no_type_check
def standardised(x: Tensor) -> Tensor:
    """Every picture at mean 0 and deviation 1, its colours together; flat ones are not blown up."""
    floor = 1 / math.sqrt(x[0].numel())
    std = x.std((1, 2, 3), keepdim=True).clamp(min=floor)
    return (x - x.mean((1, 2, 3), keepdim=True)) / std


@no_type_check
def convolution(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    """3 × 3, without bias."""
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False)


@no_type_check
def activation(channels: int) -> nn.Sequential:
    """Norm, ReLU."""
    return nn.Sequential(GroupNorm(min(channels // 4, 32), channels), nn.ReLU())


@no_type_check
class Fourier(nn.Module):
    """Sines, then cosines, of a number at fixed random frequencies (Tancik et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(FREQUENCIES), requires_grad=False)

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None].float() * self.W.float() * 2 * math.pi
        return torch.cat([angles.sin(), angles.cos()], dim=1)


@no_type_check
class Group(nn.Module):
    """Blocks of one width; the first one changes width and size."""

    def __init__(self, channels: int, width: int, count: int, stride: int, first: bool) -> None:
        """`first` is the very first group."""
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(count):
            sizes = (channels, width, stride, first) if i == 0 else (width, width, 1, False)
            self.blocks.append(WideBlock(*sizes))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return x


@no_type_check
class WideBlock(nn.Module):
    """Norm, ReLU, conv, twice, with the noise told between; plus a shortcut without weights."""

    def __init__(self, channels: int, out: int, stride: int, activated: bool) -> None:
        """`activated`: its shortcut takes the input after norm and ReLU."""
        super().__init__()
        self.stride, self.activated = stride, activated
        self.init_bn = activation(channels)
        self.conv1 = convolution(channels, out, stride)
        self.bn_2 = activation(out)
        self.conv2 = convolution(out, out)
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(EMBEDDING, out))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.init_bn(x)
        shortcut = h if self.activated else x
        h = self.conv1(h) + self.time_emb(embedding)[:, :, None, None]
        h = self.conv2(self.bn_2(h))
        if h.shape[1] != shortcut.shape[1]:
            shortcut = F.avg_pool2d(shortcut, self.stride)
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, h.shape[1] - shortcut.shape[1]))
        return h + shortcut
