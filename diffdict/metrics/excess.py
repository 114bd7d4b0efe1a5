"""How much stronger a latent's code is inside a class than over all tokens: its excess."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.base import ExactMetric


class Excess(ExactMetric):
    """Sums of codes by class at native tokens, in float64; states only sum."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, num_classes: int, latents: int) -> None:
        super().__init__()
        inside = torch.zeros(num_classes, latents, dtype=torch.float64)
        self.add_state("inside", inside, dist_reduce_fx="sum")
        self.add_state("everywhere", inside[0].clone(), dist_reduce_fx="sum")
        self.add_state("places", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        starts: Int64[Tensor, "tokens_plus_one"],
        latents: Int64[Tensor, " entries"],
        values: Tensor,
        labels: Int64[Tensor, " tokens"],
    ) -> None:
        """Codes of tokens as entries, and each token's class; below 0: of none."""
        classes, number = self.inside.shape
        values, entry_labels = values.double(), labels.repeat_interleave(starts.diff())
        self.everywhere.index_add_(0, latents, values)
        kept = entry_labels >= 0
        places = entry_labels[kept] * number + latents[kept]
        self.inside.view(-1).index_add_(0, places, values[kept])
        self.places += torch.bincount(labels[labels >= 0], minlength=classes)
        self.tokens += len(labels)

    def compute(self) -> Float64[Tensor, "classes latents"]:
        """Mean code inside each class less the mean over all tokens; nan for a class not seen."""
        if not self.tokens:
            raise UserError("No token was seen, so no latent has an excess")
        places = self.places.double().masked_fill(self.places == 0, torch.nan)
        return self.inside / places[:, None] - self.everywhere / self.tokens


def most_in_excess(excess: Float64[Tensor, "classes latents"], number: int = 8) -> list[list[int]]:
    """Each class's latents of the largest excess above 0, the largest first."""
    rows = []
    for values in excess.nan_to_num(nan=0):
        best = values.topk(min(number, len(values)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        rows.append([latent for latent, value in pairs if value > 0])
    return rows
