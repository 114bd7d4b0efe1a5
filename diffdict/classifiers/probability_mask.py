"""A mask that learns which few entries of a code a direction needs, after ProbMask (Zhou 2021)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffdict.errors import UserError

TINY = 1e-20  # inside every logarithm
HALVINGS, NEAR = 20, 1e-3  # of the bisection, and how near it comes


class ProbabilityMask(nn.Module):
    """One probability an entry, whose sum falls to `wanted` between two shares of a run."""

    def __init__(
        self,
        dims: int,
        wanted: int,
        iterations: int,
        *,
        start: float = 0.1,
        end: float = 0.4,
    ) -> None:
        """`iterations` is the run's length; `start` and `end` are shares of it."""
        super().__init__()
        if not 1 <= wanted <= dims:
            raise UserError(
                f"A mask keeps 1 to {dims} entries, got {wanted}: model.dims=null takes all"
            )
        if iterations < 1 or not 0 <= start < end <= 1:
            raise UserError(
                f"0 ≤ start < end ≤ 1 of at least one iteration, got {start}, {end} and "
                f"{iterations}: 0.1 and 0.4 are published"
            )
        self.dims, self.wanted, self.iterations = dims, wanted, iterations
        self.start, self.end = start * iterations, end * iterations
        self.scores = nn.Parameter(torch.ones(dims))

    def set_length(self, iterations: int) -> None:
        """The length of the run, where it becomes known later; the shares stay."""
        self.start *= iterations / self.iterations
        self.end *= iterations / self.iterations
        self.iterations = iterations

    def temperature(self, iteration: int) -> float:
        """Of the sigmoid: from 1 up to a step function's."""
        return 1 / (0.97 * (1 - iteration / self.iterations) + 0.03)

    def kept(self, iteration: int) -> float:
        """The share of the entries that may stay, by a cubic between start and end."""
        if iteration < self.start:
            return 1.0
        least = self.wanted / self.dims
        if iteration >= self.end:
            return least
        return least + (1 - least) * (1 - (iteration - self.start) / (self.end - self.start)) ** 3

    def forward(
        self,
        codes: Float[Tensor, "batch dims"],
        iteration: int,
        uniforms: tuple[Float[Tensor, " dims"], Float[Tensor, " dims"]] | None = None,
    ) -> Float[Tensor, "batch dims"]:
        """The codes under one soft draw of the mask; `uniforms` are its chance (None: fresh)."""
        u0, u1 = uniforms or (torch.rand_like(self.scores), torch.rand_like(self.scores))
        scores = self.scores
        logit = (scores + TINY).log() - (1 - scores + TINY).log()
        chance = ((u0 + TINY).log() / ((u1 + TINY).log() + TINY) + TINY).log()
        return codes * torch.sigmoid((logit - chance) * self.temperature(iteration))

    @torch.no_grad()
    def project(self, iteration: int) -> None:
        """After a step of the optimiser: the nearest probabilities whose sum is allowed."""
        allowed = self.dims * self.kept(iteration)
        shift = bisected(self.scores, allowed)
        self.scores.copy_((self.scores - max(shift, 0.0)).clamp(0, 1))

    @torch.no_grad()
    def likeliest(self) -> Bool[Tensor, " dims"]:
        """The mask of the wanted number of entries, those of the highest probability."""
        mask = torch.zeros(self.dims, dtype=torch.bool, device=self.scores.device)
        mask[self.scores.topk(self.wanted).indices] = True
        return mask


def bisected(scores: Float[Tensor, " dims"], allowed: float) -> float:
    """What must go from all scores, for their sum within [0, 1] to be what is allowed."""
    low, high = float(scores.min()) - 1, float(scores.max())
    middle = 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        over = float((scores - middle).clamp(0, 1).sum()) - allowed
        if abs(over) < NEAR:
            break
        low, high = (middle, high) if over > 0 else (low, middle)
    return middle
