"""What each latent does in pictures that stream by, and in which of them it does most."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from diffdict.sae.sparse import Codes

LOWEST, HIGHEST = -14, 14  # powers of 2 between which activations are told apart
STEPS = 4  # bins to a power of 2
BINS = (HIGHEST - LOWEST) * STEPS  # what is outside falls into the first or the last
LEVELS = 255  # of a map, whose largest value has the last


class Sight(NamedTuple):
    """A picture in which a latent was strong."""

    picture: int
    maximum: float  # activation that the last level stands for
    levels: UInt8[Tensor, "height width"]


class Strongest:
    """Counts of every latent's activations, and maps of the few pictures where it was strongest.

    Memory is latents × top × positions bytes, however many pictures there are.
    """

    def __init__(self, latents: int, grid: tuple[int, int], top: int) -> None:
        """`grid`: height and width of the maps; `top`: pictures that a latent keeps."""
        self.grid, self.tokens = grid, 0
        self.counts = torch.zeros(latents, BINS, dtype=torch.int64)
        self.sums = torch.zeros(latents, dtype=torch.float64)
        self._maxima = torch.zeros(latents, top)
        self._shown = torch.full((latents, top), -1)
        self._maps = torch.zeros(latents, top, grid[0] * grid[1], dtype=torch.uint8)

    @torch.no_grad()
    def add(self, picture: int, codes: Codes) -> None:
        """The codes of one picture, a token for each position, row after row."""
        token = torch.arange(len(codes.starts) - 1, device=codes.starts.device)
        token = token.repeat_interleave(codes.starts.diff()).cpu()
        latent, value = codes.latents.cpu(), codes.values.float().cpu()
        positive = value > 0
        token, latent, value = token[positive], latent[positive], value[positive]
        self.tokens += len(codes.starts) - 1
        step = (value.log2() * STEPS).floor().long() - LOWEST * STEPS
        place = latent * BINS + step.clamp(0, BINS - 1)
        self.counts.view(-1).index_add_(0, place, torch.ones_like(place))
        self.sums.index_add_(0, latent, value.double())
        self._keep(picture, token, latent, value)

    def _keep(self, picture: int, token: Tensor, latent: Tensor, value: Tensor) -> None:
        """The maps of latents that were never so strong, or less so in one of their pictures."""
        maxima = torch.zeros(len(self.sums)).scatter_reduce_(0, latent, value, "amax")
        least, slot = self._maxima.min(1)
        better = (maxima > least).nonzero()[:, 0]
        row = torch.full_like(self._shown[:, 0], -1)
        row[better] = torch.arange(len(better))
        inside = row[latent] >= 0
        token, latent, value = token[inside], latent[inside], value[inside]
        maps = self._maps.new_zeros(len(better), self._maps.shape[2])
        levels = (value / maxima[latent] * LEVELS).round().to(torch.uint8)
        maps[row[latent], token] = levels
        slot = slot[better]
        self._maxima[better, slot] = maxima[better]
        self._shown[better, slot] = picture
        self._maps[better, slot] = maps

    @property
    def density(self) -> Float64[Tensor, " latents"]:
        """Share of the tokens at which each latent is active."""
        return self.counts.sum(1).double() / max(1, self.tokens)

    @property
    def mean(self) -> Float64[Tensor, " latents"]:
        """Activation where a latent is active; nan where it never is."""
        return self.sums / self.counts.sum(1)

    @property
    def edges(self) -> Float64[Tensor, " edges"]:
        """Of the counts' bins."""
        return torch.exp2(torch.arange(BINS + 1, dtype=torch.float64) / STEPS + LOWEST)

    def top(self, latent: int) -> list[Sight]:
        """Its pictures, the strongest first."""
        order = self._maxima[latent].sort(descending=True, stable=True).indices.tolist()
        return [
            Sight(
                int(self._shown[latent, slot]),
                float(self._maxima[latent, slot]),
                self._maps[latent, slot].view(self.grid),
            )
            for slot in order
            if self._shown[latent, slot] >= 0
        ]
