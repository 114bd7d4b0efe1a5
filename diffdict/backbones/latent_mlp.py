"""The denoiser of codes (Preechakul et al. 2022): an MLP that sees its input in every layer."""

from typing import no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.backbones.guided_layers import timestep_embedding
from diffdict.errors import UserError


@no_type_check
class Layer(nn.Module):
    """Linear, scaled by the timestep, normed, SiLU, dropout."""

    def __init__(self, inputs: int, outputs: int, code: int, norm: bool, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.linear_emb = nn.Linear(code, outputs)
        self.cond_layers = nn.Sequential(nn.SiLU(), self.linear_emb)  # files hold both names
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()
        self.act = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear, self.linear_emb):
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.linear(x) * (1 + self.cond_layers(time))
        return self.dropout(self.act(self.norm(h)))


@no_type_check
class LastLayer(nn.Module):
    """A bare Linear, under the name that it has in every layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.linear(x)


class LatentMLP(nn.Module):
    """Predicts the noise in codes; `width` is that of its hidden layers."""

    def __init__(
        self,
        code: int,
        width: int = 2048,
        layers: int = 10,
        time_width: int = 64,
        norm: bool = True,
        dropout: int | float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("code", code, 1),
            ("width", width, 1),
            ("layers", layers, 2),
            ("time_width", time_width, 2),
        ):
            if value < least:
                raise UserError(f"{name} is at least {least}, got {value}: give {name}={least}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout lies in [0, 1), got {dropout}: 0.0 is published")
        self.code = code
        self.time_width = time_width
        self.time_embed = nn.Sequential(
            nn.Linear(time_width, code), nn.SiLU(), nn.Linear(code, code)
        )
        self.layers = nn.ModuleList([Layer(code, width, code, norm, dropout)])
        for _ in range(layers - 2):
            self.layers.append(Layer(width + code, width, code, norm, dropout))
        self.layers.append(LastLayer(width + code, code))
        self.register_load_state_dict_pre_hook(_name_twice)

    @no_type_check
    def forward(
        self, z_t: Float[Tensor, "batch code"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch code"]:
        """The noise in codes at timesteps t."""
        time = self.time_embed(timestep_embedding(t, self.time_width).to(z_t.dtype))
        h = self.layers[0](z_t, time)
        for layer in self.layers[1:]:
            h = layer(torch.cat([h, z_t], dim=1), time)
        return h


def _name_twice(net: LatentMLP, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """One layer stands under two names: a file that holds one of them is whole too."""
    for i in range(len(net.layers) - 1):
        for end in ("weight", "bias"):
            names = [f"{prefix}layers.{i}.{part}.{end}" for part in ("linear_emb", "cond_layers.1")]
            held = [name for name in names if name in state]
            if len(held) == 1:
                state.update(dict.fromkeys(names, state[held[0]]))
