"""MAE's encoder (He et al. 2022), a Vision Transformer: what its blocks see in whole pictures."""

from collections.abc import Sequence
from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.imagenet.statistics import normalised
from diffdict.errors import UserError

EPS = 1e-6  # of every LayerNorm
LAST = 12  # blocks that are the published features (Baranchuk et al. 2022)


class MAE(Backbone):
    """ViT-L/8 at 256 px unless told; blocks are numbers, the last twelve are the usual features.

    No patch is masked, so none is shuffled. The class token takes part and is not in the maps.
    """

    unused = ("decoder_", "mask_token", "head.")

    def __init__(
        self,
        img_size: int = 256,
        patch_size: int = 8,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: int | float = 4,
        *,
        normalise: bool = False,
        name: str = "mae",
        checkpoint: str | None = None,
    ) -> None:
        """Pictures have ImageNet's mean and deviation; with normalise=True they come in [-1, 1]."""
        super().__init__()
        for what, whole, part in (
            ("img_size must be a multiple of patch_size", img_size, patch_size),
            ("embed_dim must be a multiple of num_heads", embed_dim, num_heads),
            ("embed_dim must be a multiple of 4", embed_dim, 4),
        ):
            if part < 1 or whole < 1 or whole % part:
                raise UserError(f"{name}'s {what}, got {whole} and {part}")
        side = img_size // patch_size
        self.name, self.image_size, self.normalise = name, img_size, normalise
        self.shapes = dict.fromkeys(range(depth), (embed_dim, side, side))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, embed_dim))
        self.register_buffer("pos_embed", positions(side, embed_dim).float()[None])
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        hidden = int(embed_dim * mlp_ratio)
        self.blocks = nn.ModuleList(Transformer(embed_dim, num_heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.load(checkpoint)

    def chosen(self, blocks: Block | Sequence[Block] | None) -> list[Block]:
        """As any backbone's, but None are the last twelve."""
        return super().chosen(list(self.shapes)[-LAST:] if blocks is None else blocks)

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """What the blocks hand on, before the final norm, patches at their places; no noise."""
        self.check_timestep(timestep)
        wanted, maps = self.chosen(blocks), {}
        x = self._tokens(images)
        for block in range(wanted[-1] + 1):
            x = self.blocks[block](x)
            if block in wanted:
                maps[block] = x[:, 1:].mT.unflatten(2, self.shapes[block][1:])
        return maps

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens _"]:
        """The encoder's answer: the class token, then the patches row by row, normed."""
        x = self._tokens(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _tokens(self, images: Tensor) -> Tensor:
        """The class token and the patches, each with its position."""
        if images.shape[2:] != (self.image_size, self.image_size):
            height, width = images.shape[2:]
            raise UserError(
                f"{self.name} knows positions of pictures of {self.image_size}×{self.image_size},"
                f" got {height}×{width}: say dataset.image_size={self.image_size}"
            )
        x = normalised(images) if self.normalise else images
        x = self.patch_embed.proj(x.to(self.cls_token.dtype))
        x = x.flatten(2).mT + self.pos_embed[:, 1:]
        first = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([first.expand(len(x), -1, -1), x], dim=1)


@no_type_check
class Transformer(nn.Module):
    """Attention, then two layers at every token; each on normed input, added to it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = PatchAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


@no_type_check
class PatchAttention(nn.Module):
    """Every token looks at every token, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # channels run [q, k, v][head][d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v)
        return self.proj(h.transpose(1, 2).flatten(2))


def positions(side: int, width: int) -> Float64[Tensor, "tokens width"]:
    """The fixed table: zeros for the class token, then column and row as sines and cosines."""
    quarter = width // 4
    frequencies = 10000 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # of one coordinate: [side, width / 2]
    columns = waves.repeat(side, 1)  # it varies fastest: patches run row by row
    rows = waves.repeat_interleave(side, dim=0)
    table = torch.cat([columns, rows], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table])
