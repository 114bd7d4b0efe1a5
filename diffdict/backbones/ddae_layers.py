"""The layers of DDAE's U-Net, under its names for their weights.

torch.compile traces all of this, which a run-time type checker would interrupt: no_type_check.
"""

import math
from typing import no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffdict.backbones.guided_layers import GROUPS, GroupNorm, Twice, WideLinear, attend
from diffdict.errors import UserError


@no_type_check
class TimeEmbedding(nn.Module):
    """What the blocks are told of the time, and of what was done to the picture."""

    def __init__(self, channels: int, augment_dim: int) -> None:
        super().__init__()
        self.channels = channels
        self.lin1 = WideLinear(channels, 4 * channels)
        self.lin2 = WideLinear(4 * channels, 4 * channels)
        if augment_dim:
            self.aug_emb = WideLinear(augment_dim, channels, bias=False)

    def forward(self, time: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = sinusoid(time, self.channels)
        if labels is not None:
            embedding = embedding + self.aug_emb(labels)
        return self.lin2(F.silu(self.lin1(embedding)))


@no_type_check
class Residual(nn.Module):
    """Norm, SiLU, [resample], conv, twice, with the time added between; plus the input."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        dropout: int | float,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(GROUPS, out_channels)
        self.conv2 = nn.Sequential(
            nn.Dropout(dropout), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels))
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        time = self.time_emb(embedding.to(self.time_emb[1].weight.dtype))
        h = h + time.to(h.dtype)[:, :, None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.shortcut(self.resample(x))


@no_type_check
class TokenAttention(nn.Module):
    """Self-attention between the positions of a map, with a residual; one head by default."""

    def __init__(self, channels: int, channels_per_head: int | None) -> None:
        super().__init__()
        width = channels if channels_per_head is None else channels_per_head
        if width < 1 or channels % width:
            raise UserError(
                f"attn_channels_per_head must divide every attending width, got {width} for "
                f"{channels} channels: null is one head"
            )
        self.heads = channels // width
        self.norm = GroupNorm(GROUPS, channels)
        self.projection = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # a view of a channels_last map
        qkv = self.projection(tokens).unflatten(2, (self.heads, 3, -1))  # [head][q, k, v][d]
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(3))
        h = self.output(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


@no_type_check
class LevelBlock(nn.Module):
    """A residual block, and attention where its level attends."""

    def __init__(self, res: Residual, attn: TokenAttention | None) -> None:
        super().__init__()
        self.res = res
        self.attn = attn or nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attn(self.res(x, embedding))


@no_type_check
class Middle(nn.Module):
    """The deepest layers: residual, attention, residual."""

    def __init__(self, res1: Residual, attn: TokenAttention, res2: Residual) -> None:
        super().__init__()
        self.res1, self.attn, self.res2 = res1, attn, res2

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.res2(self.attn(self.res1(x, embedding)), embedding)


@no_type_check
class Down(nn.Module):
    """Half the size by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(x)


@no_type_check
class Up(nn.Module):
    """Twice the size by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.twice = Twice()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(self.twice(x))


@no_type_check
class ResidualResample(nn.Module):
    """BigGAN's way to another size: a whole residual block (Brock et al. 2019)."""

    def __init__(self, op: Residual) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.op(x, embedding)


@no_type_check
def sinusoid(time: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of the time at geometric frequencies from 1 to 1/10000."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = time[:, None].float() * torch.exp(-math.log(10000) * steps / (half - 1))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
