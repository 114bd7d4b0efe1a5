"""PDAE's second way up: what a code adds to a frozen U-Net's answer, from the same way down.

torch.compile traces all of this, which a run-time type checker would interrupt: no_type_check.
"""

from collections.abc import Sequence
from typing import no_type_check

import torch
from torch import Tensor, nn

from diffdict.backbones.guided_layers import (
    GROUPS,
    Attention,
    GroupNorm,
    Layers,
    ResBlock,
    Twice,
    Upsample,
    WideLinear,
    zeroed,
)
from diffdict.backbones.guided_unet import GuidedUNet


@no_type_check
class ShiftBlock(ResBlock):
    """A residual block whose second norm the code scales and shifts, after the timestep."""

    def __init__(self, like: ResBlock) -> None:
        """Fresh weights in the shapes of another residual block."""
        norm, _, conv = like.in_layers
        time, dropout = like.emb_layers[1], like.out_layers[2].p
        resample = Twice() if isinstance(like.resample, Twice) else None
        super().__init__(
            norm.num_channels,
            conv.out_channels,
            time.in_features,
            like.scale_shift,
            dropout,
            resample,
        )
        self.emb_z_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(time.in_features, 2 * conv.out_channels)
        )

    def forward(self, x: Tensor, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        time, code = (
            layers(embedding.to(layers[1].weight.dtype)).to(x.dtype)[:, :, None, None]
            for layers, embedding in zip(
                (self.emb_layers, self.emb_z_layers), embeddings, strict=True
            )
        )
        norm, silu, conv = self.in_layers
        h = conv(self.resample(silu(norm(x))))
        x = self.skip_connection(self.resample(x))
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = torch.addcmul(shift, norm(h), 1 + scale)
        else:
            h = norm(h + time)
        scale, shift = code.chunk(2, dim=1)
        h = torch.addcmul(shift, h, 1 + scale)
        for layer in rest:
            h = layer(h)
        return x + h


@no_type_check
class ShiftHalf(nn.Module):
    """Middle block, way up and output of a U-Net once more, told of a code; starts as zero."""

    def __init__(self, denoiser: GuidedUNet, code: int) -> None:
        super().__init__()
        self.label_emb = WideLinear(code, denoiser.flags.embedding)
        self.shift_middle_block = mirrored(denoiser.middle_block)
        self.shift_output_blocks = nn.ModuleList(map(mirrored, denoiser.output_blocks))
        width = denoiser.out[0].num_channels
        self.shift_out = nn.Sequential(
            GroupNorm(GROUPS, width), nn.SiLU(), zeroed(nn.Conv2d(width, 3, 3, padding=1))
        )

    def forward(self, skips: Sequence[Tensor], time: Tensor, codes: Tensor) -> Tensor:
        """The code's gradient, from the maps of the input blocks and the embedding of time."""
        embeddings = time, self.label_emb(codes)
        h = skips[-1]
        if h.device.type == "cpu" and not h.requires_grad:
            # torch 2.13 on a CPU dies in the backward pass of a norm whose weights learn while
            # its channels_last input does not
            h = h.contiguous()
        h = self.shift_middle_block(h, embeddings)
        for block, skip in zip(self.shift_output_blocks, reversed(skips), strict=True):
            h = block(torch.cat([h, skip], dim=1), embeddings)
        return self.shift_out(h.to(self.shift_out[2].weight.dtype))


@no_type_check
def mirrored(layers: Layers) -> Layers:
    """Fresh layers of the same shapes, with shift blocks in place of residual ones."""
    fresh = Layers()
    for layer in layers:
        if isinstance(layer, ResBlock):
            fresh.append(ShiftBlock(layer))
        elif isinstance(layer, Attention):
            fresh.append(Attention(layer.norm.num_channels, layer.heads, layer.new_order))
        else:
            fresh.append(Upsample(layer.conv.in_channels))
    fresh.recompute = layers.recompute
    return fresh
