"""How strongly latents are active: their floors, and quantiles from histograms of fixed size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric
from diffdict.metrics.concepts.pre_activations import Native, PreActivations

# A bin is a sixteenth of the way from one power of 2 to the next: at most 1/16 of its lower end.
STEPS = 16
LOWEST, HIGHEST = -20, 12  # powers of 2; what is outside falls into the first or the last bin
BINS = (HIGHEST - LOWEST) * STEPS
FAR = 1e30  # no pre-activation is larger; squares and exponentials of it may be infinite


def to_ordered(values: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Integers in the order of float32 numbers, neighbours for neighbours."""
    bits = values.float().contiguous().view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def from_ordered(integers: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Their float32 numbers."""
    size: Int32[Tensor, "*shape"] = integers.abs().int()
    return size.view(torch.float32).copysign(integers.float())


@torch.no_grad()
def find_floors(
    activate: Callable[[Float[Tensor, "1 latents"]], Float[Tensor, "1 latents"]],
    latents: int,
    code: float = 0.0,
    *,
    ranked: int | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, " latents"]:
    """The largest pre-activations whose codes are not above `code`, exact to the float32.

    For any code that does not fall as its own pre-activation rises: so `pre > floor` says all
    about ReLU, gated, JumpReLU and thresholds. Infinite where no code is ever above it.
    Of `ranked` latents, the largest are rectified: `code` itself.
    """
    if ranked:
        return torch.full((latents,), code, device=device)
    low = to_ordered(torch.full((1, latents), -FAR, device=device))
    high = -low
    reached = activate(from_ordered(high)) > code
    if (activate(from_ordered(low)) > code).any():
        raise UserError("Codes must not be above 0 at every pre-activation: nothing is inactive")
    while (high - low > 1).any():
        middle = (low + high).div(2, rounding_mode="floor")
        above = activate(from_ordered(middle)) > code
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return from_ordered(low).where(reached, torch.inf)[0]


class ActivationHistogram(NamedTuple):
    """Of every latent's pre-activations above its floor, over the tokens seen."""

    floors: Float[Tensor, " latents"]
    counts: Int64[Tensor, "latents bins"]
    tokens: int

    @property
    def edges(self) -> Float64[Tensor, " edges"]:
        """Between the bins, as heights above the floor: the same for all latents."""
        steps = torch.arange(BINS + 1, device=self.counts.device)
        power, step = LOWEST + steps // STEPS, steps % STEPS
        return torch.ldexp(1 + step.double() / STEPS, power).index_fill(0, steps[:1], 0)

    @property
    def density(self) -> Float64[Tensor, " latents"]:
        """Share of the tokens at which each latent is active."""
        return self.counts.sum(1).double() / self.tokens

    @property
    def mean(self) -> Float64[Tensor, " latents"]:
        """Mean pre-activation where active, to 1/32 of the height above the floor; else nan."""
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        return self.floors + self.counts.double() @ middle / self.counts.sum(1)

    def quantiles(
        self, shares: Sequence[float] | Float[Tensor, "latents shares"]
    ) -> Float[Tensor, "latents shares"]:
        """Pre-activations under which these shares of a latent's own activations lie; 0: the floor.

        To within a bin: 1/16 of the height above the floor. A latent that is never active has its
        floor everywhere.
        """
        if not isinstance(shares, Tensor):
            shares = torch.tensor(shares, device=self.counts.device).expand(len(self.counts), -1)
        if not ((shares >= 0) & (shares <= 1)).all():
            raise UserError("A quantile is a share of the activations, from 0 to 1")
        below = self.counts.cumsum(1).double()
        wanted = shares.double() * below[:, -1:]
        bin_ = torch.searchsorted(below, wanted).clamp(max=BINS - 1)
        inside = self.counts.gather(1, bin_).clamp(min=1)
        part = (wanted - (below.gather(1, bin_) - inside)) / inside
        height = torch.lerp(self.edges[bin_], self.edges[bin_ + 1], part.clamp(0, 1))
        height = height.masked_fill(wanted == 0, 0)
        return (self.floors.double()[:, None] + height).float()

    def thinned(self, density: Float[Tensor, " latents"]) -> Float[Tensor, " latents"]:
        """Floors at which latents are active at no more than these shares of the tokens."""
        share = self.density.clamp(min=torch.finfo(torch.float64).tiny)
        return self.quantiles((1 - density.double() / share).clamp(min=0)[:, None].float())[:, 0]


class Activations(ExactMetric):
    """Histograms of what makes codes, at native resolution; states are sums on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, floors: Float[Tensor, " latents"], *, ranked: int | None = None) -> None:
        """A latent is active above its floor and, if `ranked` is set, among the k largest."""
        super().__init__()
        if not (floors > -torch.inf).all():
            raise UserError("A floor is a number: heights above it are counted")
        self.ranked = ranked
        self.register_buffer("floors", floors.detach().float().clone(), persistent=False)
        zero = torch.zeros(len(floors), BINS, dtype=torch.int64)
        self.add_state("counts", zero, dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, pre: PreActivations) -> None:
        """Pre-activations at native resolution, as `Concepts` takes them."""
        native = Native(pre, len(self.floors))
        self.tokens += native.pictures * native.grid[0] * native.grid[1]
        for part, _, tokens in native.active(self.floors, self.ranked):
            token, latent = (tokens > -torch.inf).nonzero(as_tuple=True)
            height = tokens[token, latent] - self.floors[part][latent]
            # exponent and first 4 bits of the mantissa, which are the number's first 13
            steps = (height.view(torch.int32) >> 19).long() - ((127 + LOWEST) * STEPS)
            places = (latent + (part.start or 0)) * BINS + steps.clamp(0, BINS - 1)
            self.counts.view(-1).index_add_(0, places, torch.ones_like(places))

    def compute(self) -> ActivationHistogram:
        """The histograms of everything seen."""
        if not self.tokens:
            raise UserError("No token was seen, so activations have no quantiles")
        return ActivationHistogram(self.floors, self.counts, int(self.tokens))
