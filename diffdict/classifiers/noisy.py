"""DDAE's noise-conditional head (Xiang et al. 2023): a class of features of any timestep."""

from typing import no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.backbones.ddae_layers import TimeEmbedding
from diffdict.errors import UserError

PART = 4  # the sinusoid has a quarter of the features' width


class NoisyMLP(nn.Module):
    """Two layers on pooled features and their timestep, by the original's keys."""

    name = "noisy_mlp"

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        if dim < 4 * PART or dim % (2 * PART):
            raise UserError(f"dim must be a multiple of {2 * PART} and 16 or more, got {dim}")
        if classes < 1:
            raise UserError(f"classes is 1 or more, got {classes}")
        self.time_emb = TimeEmbedding(dim // PART, 0)
        self.cls = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, classes))

    @no_type_check
    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        t: Int[Tensor, " batch"] | Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch classes"]:
        """Logits; `t` is the timestep itself, 1 … 1000 or 1 … 18, not a share of the chain."""
        embedding = self.time_emb(t.to(torch.float32))
        return self.cls(features + embedding.to(features.dtype))
