"""What features look like without any label: off-centre, massive channels, rank, space, noise."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric

SAME = 1e-12  # variance as a share of the second moment: below, float64 sums see rounding alone
MOST_TOKENS = 1024  # of a picture whose pairs are compared; of larger grids every second row, …


class HealthFigures(NamedTuple):
    """None where it cannot be said: one position, one draw, nothing that varies."""

    gamma: float | None  # ‖μ‖ / ‖σ‖ of the tokens
    massive: int  # channels whose size dwarfs the others'
    massive_share: float  # of the tokens' squared length, in these channels
    effective_rank: float | None  # e to the entropy of the singular values (Roy & Vetterli 2007)
    structure: float | None  # how much likeness falls with distance: -1 to 1
    noise_share: float | None  # of the variance: over draws of noise, not over pictures


class FeatureHealth(ExactMetric):
    """Sums over one map of all pictures: the same however they come, and over any ranks.

    Spatial structure is the negative correlation, over pairs of tokens of a picture, of their
    cosine with the distance of their positions; the mean over pictures counts (as in iREPA,
    "What matters for representation alignment: global information or spatial structure?", 2025).
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, channels: int, grid: tuple[int, int], massive: float | int = 10) -> None:
        """`massive`: how many times the median size a channel must have."""
        super().__init__()
        if massive <= 1:
            raise UserError(f"massive is a factor above 1, got {massive}: 10")
        self.grid, self.limit = tuple(grid), massive
        self.step = math.ceil(math.sqrt(grid[0] * grid[1] / MOST_TOKENS))
        tokens = grid[0] * grid[1]
        for name, shape in (
            ("count", ()),
            ("first", (channels,)),
            ("gram", (channels, channels)),
            ("structured", ()),
            ("structure", ()),
            ("pictures", ()),
            ("draws", ()),
            ("within", ()),
            ("means", (tokens, channels)),
            ("mean_squares", ()),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, draws: Float[Tensor, "draws batch tokens channels"]) -> None:
        """Some pictures under several draws of noise; moments and structure are the first's."""
        x = draws[0].flatten(0, 1).double()
        self.count += len(x)
        self.first += x.sum(0)
        self.gram += x.T @ x
        if min(self.grid) > 1 or max(self.grid) > 2:
            each = spatial_structure(draws[0].float(), self.grid, self.step)
            known = ~each.isnan()
            self.structured += known.sum()
            self.structure += each[known].sum()
        if len(draws) > 1:
            self._add_draws(draws.double())

    def _add_draws(self, draws: Float64[Tensor, "draws batch tokens channels"]) -> None:
        """To the sums of a one-way analysis of variance at every position."""
        means = draws.mean(0)
        self.pictures += len(means)
        self.draws += len(means) * len(draws)
        self.within += draws.var(0).sum()
        self.means += means.sum(0)
        self.mean_squares += means.square().sum()

    def compute(self) -> HealthFigures:
        """Of everything seen."""
        mean = self.first / self.count
        covariance = self.gram / self.count - mean.outer(mean)
        second, variance = self.gram.trace() / self.count, covariance.trace()
        varies = bool(variance > SAME * second)
        massive = self.massive_channels()
        share = self.gram.diag()[massive].sum() / self.gram.trace()
        return HealthFigures(
            gamma=float(mean.norm() / variance.sqrt()) if varies else None,
            massive=len(massive),
            massive_share=float(share) if massive else 0.0,
            effective_rank=effective_rank(covariance) if varies else None,
            structure=float(self.structure / self.structured) if self.structured else None,
            noise_share=self._noise_share(),
        )

    def massive_channels(self) -> list[int]:
        """Those whose root mean square exceeds the limit times the channels' median; largest first.

        As of massive activations (Sun et al. 2024), which diffusion transformers have in the same
        few channels at every position. Channels that are always 0 are none.
        """
        size = (self.gram.diag() / self.count).sqrt()
        if not bool((size > 0).any()):
            return []
        above = (size > self.limit * size[size > 0].median()).nonzero()[:, 0]
        return above[size[above].argsort(descending=True, stable=True)].tolist()

    def _noise_share(self) -> float | None:
        """The variance within a picture over that and the one between pictures, both unbiased."""
        if self.pictures < 2:
            return None
        each = self.draws / self.pictures
        within = self.within / self.pictures
        spread = self.mean_squares - self.means.square().sum() / self.pictures
        between = (spread / (self.pictures - 1) - within / each).clamp(min=0)
        total = within + between
        return float(within / total) if total > 0 else None


def effective_rank(covariance: Float64[Tensor, "d d"]) -> float:
    """e to the entropy of the singular values of centred tokens with this covariance."""
    values = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def spatial_structure(
    tokens: Float[Tensor, "batch tokens channels"], grid: tuple[int, int], step: int = 1
) -> Float64[Tensor, " batch"]:
    """Of each picture minus Pearson's r of cosine and distance over pairs; NaN without a spread.

    `step`: of rows and columns only every so many.
    """
    maps = tokens.unflatten(1, grid)[:, ::step, ::step]
    height, width = maps.shape[1:3]
    rows, columns = torch.arange(height).double(), torch.arange(width).double()
    places = torch.cartesian_prod(rows, columns).to(tokens.device)
    pair = torch.triu_indices(len(places), len(places), 1, device=tokens.device)
    distance = torch.cdist(places, places)[pair[0], pair[1]]
    distance -= distance.mean()
    unit = F.normalize(maps.flatten(1, 2), dim=2)
    each = []
    for one in unit:  # one at a time: a picture has up to half a million pairs
        likeness = (one @ one.T)[pair[0], pair[1]].double()
        likeness -= likeness.mean()
        spread = likeness.norm()
        flat = spread <= 1e-6 * math.sqrt(len(likeness))
        r = likeness @ distance / (spread * distance.norm())
        each.append(torch.full_like(r, torch.nan) if flat else -r)
    return torch.stack(each)
