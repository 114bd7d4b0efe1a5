"""The layers of guided-diffusion's U-Net, under its names for their weights.

torch.compile traces all of this, which a run-time type checker would interrupt: no_type_check.
"""

import math
from typing import no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

GROUPS = 32  # of every GroupNorm
TRAINABLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class GroupNorm(nn.GroupNorm):
    """GroupNorm computed in float32 at least, answered in the input's dtype."""

    @no_type_check
    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.group_norm(wide, self.num_groups, weight, bias, self.eps).to(x.dtype)


class WideLinear(nn.Linear):
    """Linear computed in float32 at least, in half networks and under autocast too."""

    @no_type_check
    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        if x.is_meta:  # which has no autocast
            return F.linear(x.to(dtype), weight, bias)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(dtype), weight, bias)


@no_type_check
class ResBlock(nn.Module):
    """Norm, SiLU, [resample], conv, twice, with the time embedding between; plus the input."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        scale_shift: bool,
        dropout: int | float,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.resample = resample or nn.Identity()
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(embedding, out_channels * (2 if scale_shift else 1)),
        )
        self.out_layers = nn.Sequential(
            GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, silu, conv = self.in_layers
        h = conv(self.resample(silu(norm(x))))
        x = self.skip_connection(self.resample(x))
        embedding = embedding.to(self.emb_layers[1].weight.dtype)
        embedding = self.emb_layers(embedding).to(h.dtype)[:, :, None, None]
        if not self.scale_shift:
            return x + self.out_layers(h + embedding)
        scale, shift = embedding.chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = torch.addcmul(shift, norm(h), 1 + scale)
        for layer in rest:
            h = layer(h)
        return x + h


@no_type_check
class Attention(nn.Module):
    """Self-attention between the positions of a map, with a residual; keys as 1×1 conv1d layers."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # a view of a channels_last map
        qkv = F.linear(tokens, self.qkv.weight[:, :, 0], self.qkv.bias)
        if self.new_order:  # channels run [q, k, v][head][d]
            q, k, v = qkv.unflatten(2, (3, self.heads, -1)).unbind(2)
        else:  # channels run [head][q, k, v][d]
            q, k, v = qkv.unflatten(2, (self.heads, 3, -1)).unbind(3)
        h = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        h = F.linear(
            h.transpose(1, 2).flatten(2), self.proj_out.weight[:, :, 0], self.proj_out.bias
        )
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


@no_type_check
def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by the fastest kernel whose gradients can be trusted.

    cuDNN's, the first choice on Hopper GPUs, answers with NaN where positions are 64 more than a
    multiple of 128, as on maps of 8 × 8, and a row's logits all lie below −88 (cuDNN 9.19, bf16).
    """
    if not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(TRAINABLE):
        return F.scaled_dot_product_attention(q, k, v)


@no_type_check
class Downsample(nn.Module):
    """Half the size by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


@no_type_check
class Twice(nn.Module):
    """Twice the size by nearest neighbours.

    Written out for the compiler: torch 2.13 compiles the gradient of F.interpolate to zeros on
    CPUs (bf16, channels_last), and all that lies below it then never learns.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return F.interpolate(x, scale_factor=2, mode="nearest")  # keeps channels_last


@no_type_check
class Upsample(nn.Module):
    """Twice the size by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.twice = Twice()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.twice(x))


@no_type_check
class Layers(nn.Sequential):
    """Layers in turn, residual blocks with the time embedding; recomputed in backward if told."""

    recompute = False

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            inputs = (x, embedding) if isinstance(layer, ResBlock) else (x,)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                x = layer(*inputs)
        return x


@no_type_check
def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of the timestep at geometric frequencies; an odd width ends in 0."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10000) * steps / half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with zero weights: its residual branch starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
