"""How well a latent ranks a class's tokens: average precision, ROC-AUC, Purity@k, Coverage@τ.

These compare with what is published for dictionaries of vision transformers (arXiv 2511.17735):
on tokens, not pixels, each of the label that most of its cell has. Curves come from `Counts` at
many thresholds (`Concepts` on `token_labels` masks): codes between two thresholds are ties, and so
are all that are not positive. Measured, average precision is within 0.02 of the exact one at 8
thresholds that are quantiles, within 0.01 at 32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric
from diffdict.metrics.concepts.activations import to_ordered
from diffdict.metrics.concepts.entries import token_entries
from diffdict.metrics.concepts.overlap import Counts, read_labels
from diffdict.metrics.concepts.pre_activations import Native, PreActivations

NEVER = torch.iinfo(torch.int64).min
IGNORED = -1


def token_labels(
    mask: Integer[Tensor, "pictures height width"],
    grid: tuple[int, int],
    class_names: Sequence[str],
    ignore_label: int | None = None,
) -> Int64[Tensor, "pictures rows columns"]:
    """The label that most pixels of each token's cell have; the smallest of equally many.

    A pixel belongs to the token that its centre lies on. Where most are ignored the token is -1.
    """
    labels = read_labels(mask, class_names, ignore_label)
    pictures, height, width = labels.shape
    if grid[0] > height or grid[1] > width:
        raise UserError(f"Tokens {list(grid)} are finer than masks {[height, width]}")
    classes = len(class_names) + 1
    row, column = (
        (torch.arange(pixels, device=mask.device) + 0.5).mul(tokens / pixels).long()
        for pixels, tokens in ((height, grid[0]), (width, grid[1]))
    )
    picture = torch.arange(pictures, device=mask.device)[:, None, None]
    token = (picture * grid[0] + row[:, None]) * grid[1] + column
    number = pictures * grid[0] * grid[1]
    votes = torch.bincount((token * classes + labels).flatten(), minlength=number * classes)
    winners = votes.view(pictures, *grid, classes).argmax(-1)
    return winners.masked_fill(winners == classes - 1, IGNORED)


def average_precision(counts: Counts) -> Float64[Tensor, "classes latents"]:
    """Area under precision over recall, in steps, from the highest threshold down to everything."""
    total, before = torch.zeros_like(counts.intersections[0], dtype=torch.float64), 0
    for both, active in _from_the_top(counts):
        precision = both / active.clamp(min=1)
        total += (both - before) * precision
        before = both
    return total / _present(counts)


def roc_auc(counts: Counts) -> Float64[Tensor, "classes latents"]:
    """Share of pairs, one inside the class and one not, that are in order; ties count a half."""
    others = counts.pixels.sum() - counts.pixels[:, None]
    area = torch.zeros_like(counts.intersections[0], dtype=torch.float64)
    inside, outside = 0, 0
    for both, active in _from_the_top(counts):
        wrong = active - both
        area += (wrong - outside) * (both + inside).double() / 2
        inside, outside = both, wrong
    return area / (_present(counts) * others.double().masked_fill(others == 0, torch.nan))


def _from_the_top(counts: Counts) -> list[tuple[Tensor, Tensor]]:
    """Intersection and activity at falling thresholds, and last of all tokens."""
    steps = [*zip(counts.intersections, counts.active, strict=True)][::-1]
    pixels = counts.pixels[:, None]
    return [*steps, (pixels.expand_as(steps[0][0]), pixels.sum().expand_as(steps[0][1]))]


def _present(counts: Counts) -> Float64[Tensor, "classes 1"]:
    pixels = counts.pixels[:, None].double()
    return pixels.masked_fill(pixels == 0, torch.nan)


class TopLabels(ExactMetric):
    """The labels of the k tokens at which each latent is most active, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(
        self,
        class_names: Sequence[str],
        floors: Float[Tensor, " latents"],
        *,
        k: int = 16,
        ranked: int | None = None,
    ) -> None:
        """Only tokens at which a latent is active count, and labelled ones."""
        super().__init__()
        self.class_names, self.k, self.ranked = tuple(class_names), k, ranked
        self.register_buffer("floors", floors.detach().float().clone(), persistent=False)
        # a pre-activation's place in the order of numbers, then a label: the largest k are kept
        zero = torch.full((len(floors), k), NEVER)
        self.add_state("keys", zero, dist_reduce_fx=_merged)

    @torch.no_grad()
    def update(self, pre: PreActivations, labels: Int64[Tensor, "pictures rows columns"]) -> None:
        """Pre-activations as `Concepts` takes them, and `token_labels` of the same grid."""
        native, labels = Native(pre, len(self.floors)), labels.to(self.keys.device)
        if labels.shape != (native.pictures, *native.grid):
            raise UserError(f"Labels are {list(labels.shape)}, tokens {native.grid}: token_labels")
        for pixel, latent, value in token_entries(native, self.floors, self.ranked):
            label = labels.flatten()[pixel]
            keys = (to_ordered(value) << 32) + label
            able = (label != IGNORED) & (keys > self.keys[latent, -1])
            self._keep(latent[able], keys[able])

    def _keep(self, latent: Int64[Tensor, " entries"], keys: Int64[Tensor, " entries"]) -> None:
        """Puts each latent's largest keys among those that it has."""
        order = keys.argsort(descending=True)
        order = order[latent[order].argsort(stable=True)]  # latent after latent, falling keys
        latent, keys = latent[order], keys[order]
        counts = torch.bincount(latent, minlength=len(self.keys))
        place = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[latent]
        first = place < self.k
        new = torch.full_like(self.keys, NEVER)
        new[latent[first], place[first]] = keys[first]
        self.keys.copy_(torch.cat([self.keys, new], 1).topk(self.k, sorted=True).values)

    def compute(self) -> Float64[Tensor, "classes latents"]:
        """Purity@k: how many of a latent's k are of the class, over k (rarer latents lose)."""
        classes = torch.arange(len(self.class_names), device=self.keys.device)
        label = (self.keys & 0xFFFFFFFF).masked_fill(self.keys == NEVER, IGNORED)
        return torch.stack([(label == c).sum(1) / self.k for c in classes]).double()


def _merged(ranks: Int64[Tensor, "ranks latents k"]) -> Int64[Tensor, "latents k"]:
    return ranks.movedim(0, 1).flatten(1).topk(ranks.shape[2], sorted=True).values


class Ranking(NamedTuple):
    """Per class, what the latent of the best average precision on one split does on another."""

    latents: Int64[Tensor, " classes"]
    train: Float64[Tensor, " classes"]  # average precision; nan where the class is absent
    test: Float64[Tensor, " classes"]
    purity: Float64[Tensor, " classes"]

    @property
    def mean(self) -> float:
        """The mAP, over classes that both splits have."""
        return float(self.test[self._present].mean())

    @property
    def mean_purity(self) -> float:
        """Purity@k over the same classes."""
        return float(self.purity[self._present].mean())

    def coverage(self, least: float = 0.3) -> float:
        """Coverage@τ: the share of these classes with an average precision of at least τ."""
        return float((self.test[self._present] >= least).double().mean())

    @property
    def _present(self) -> Tensor:
        return ~(self.train.isnan() | self.test.isnan())


def rank(train: Counts, test: Counts, purity: Float64[Tensor, "classes latents"]) -> Ranking:
    """Latents chosen on one split; average precision and purity of the other."""
    before, after = average_precision(train), average_precision(test)
    best, latents = before.nan_to_num(nan=-1).max(1)
    at = latents[:, None]
    return Ranking(
        latents,
        best.masked_fill(best < 0, torch.nan),
        after.gather(1, at)[:, 0],
        purity.gather(1, at)[:, 0],
    )
