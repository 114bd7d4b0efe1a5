"""Average precision of latents that rank the tokens of a class: exact, of tokens kept as codes."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


class TokenPrecision:
    """Keeps the active codes of labelled tokens; where a latent is not active tokens are ties."""

    def __init__(self, num_classes: int, latents: int) -> None:
        self.num_classes, self.latents = num_classes, latents
        self.places = torch.zeros(num_classes, dtype=torch.int64)  # tokens of each class
        self.tokens = 0
        self._entries: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(
        self,
        starts: Int64[Tensor, "tokens_plus_one"],
        latents: Int64[Tensor, " entries"],
        values: Float[Tensor, " entries"],
        labels: Int64[Tensor, " tokens"],
    ) -> None:
        """Codes of tokens as entries, and each token's class; tokens below 0 are left out."""
        entry_labels = labels.repeat_interleave(starts.diff())
        kept = (entry_labels >= 0) & (values > 0)
        self._entries.append(tuple(x[kept].cpu() for x in (latents, values, entry_labels)))
        classes = labels[labels >= 0].cpu()
        self.places += torch.bincount(classes, minlength=self.num_classes)
        self.tokens += len(classes)

    def compute(self) -> Float64[Tensor, "classes latents"]:
        """Area under precision over recall, in steps; nan for a class that was not seen."""
        latent, value, label = (torch.cat(each) for each in zip(*self._entries, strict=True))
        order = value.argsort(descending=True, stable=True)
        order = order[latent[order].argsort(stable=True)]  # latent after latent, falling codes
        latent, label = latent[order], label[order]
        counts = torch.bincount(latent, minlength=self.latents)
        first = (counts.cumsum(0) - counts)[latent]  # where each entry's latent begins
        place = torch.arange(len(latent)) - first + 1
        rows = []
        for class_index, number in enumerate(self.places.tolist()):
            hits = (label == class_index).double()
            before = torch.nn.functional.pad(hits.cumsum(0), (1, 0))
            precision = (before[1:] - before[first]) / place
            area, latent_hits = (
                torch.zeros(self.latents, dtype=torch.float64).index_add_(0, latent, each)
                for each in (precision * hits, hits)
            )
            rest = (number - latent_hits) * number / max(1, self.tokens)
            rows.append((area + rest) / (number or torch.nan))
        return torch.stack(rows)
