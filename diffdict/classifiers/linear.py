"""Linear heads that learn side by side: one for every place of features and every rate."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffdict.classifiers.pixel_ensemble import Linear
from diffdict.seeds import mix


class LinearHeads(nn.Module):
    """A head for each cell and rate; those of one width are one batched product.

    `own[rate][width]` holds the heads of every cell of this width, in the cells' order: a rate's
    heads can be a group of an optimizer.
    """

    def __init__(
        self, widths: Sequence[int], classes: int, rates: int = 1, seeds: Sequence[int] = ()
    ) -> None:
        """`widths`: of the cells' vectors. `seeds`: one a cell, by which its heads begin."""
        super().__init__()
        self.widths, self.classes = list(widths), classes
        self.cells = {  # by width, which cells have it
            width: [cell for cell, cell_width in enumerate(widths) if cell_width == width]
            for width in dict.fromkeys(widths)
        }
        self.own = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(width): Linear(len(cells), width, classes)
                    for width, cells in self.cells.items()
                }
            )
            for _ in range(rates)
        )
        self._start(seeds or range(len(self.widths)))

    @torch.no_grad()
    def _start(self, seeds: Sequence[int]) -> None:
        """As torch's own Linear begins; heads of one cell begin alike at every rate."""
        for width, cells in self.cells.items():
            bound = width**-0.5
            for member, cell in enumerate(cells):
                generator = torch.Generator().manual_seed(mix(seeds[cell]))
                weight = torch.empty(self.classes, width).uniform_(
                    -bound, bound, generator=generator
                )
                bias = torch.empty(self.classes).uniform_(-bound, bound, generator=generator)
                for heads in self.own:
                    heads[str(width)].weight[member] = weight
                    heads[str(width)].bias[member] = bias

    def forward(
        self, vectors: Sequence[Float[Tensor, "batch _"]]
    ) -> Float[Tensor, "cells rates batch classes"]:
        """Each cell's vectors through its own heads."""
        scores: list[Tensor | None] = [None] * len(self.widths)
        for width, cells in self.cells.items():
            x = torch.stack([vectors[cell] for cell in cells])
            answers = torch.stack([heads[str(width)](x) for heads in self.own], dim=1)
            for member, cell in enumerate(cells):
                scores[cell] = answers[member]
        return torch.stack(scores)


def class_losses(
    scores: Float[Tensor, "cells rates batch classes"], truth: Float[Tensor, "batch classes"]
) -> Float[Tensor, "cells rates"]:
    """Each head's cross-entropy, a mean over the pictures whose class is known."""
    known = truth.any(1)
    wrong = -(scores.log_softmax(-1) * truth).sum(-1)
    return wrong.sum(2) / known.sum().clamp(min=1)


def presence_losses(
    scores: Float[Tensor, "cells rates batch classes"], truth: Float[Tensor, "batch classes"]
) -> Float[Tensor, "cells rates"]:
    """Each head's binary cross-entropy of what a picture may show."""
    every = truth.expand_as(scores)
    return F.binary_cross_entropy_with_logits(scores, every, reduction="none").mean((2, 3))
