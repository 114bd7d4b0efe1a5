"""What is in a picture as what a linear head learns: its loss, its figures, its rows."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from diffdict.classifiers.linear import presence_losses
from diffdict.classifiers.targets.class_targets import likeliest
from diffdict.metrics.accuracy import AveragePrecision, PictureFigures
from diffdict.results.tables import Row


class PresenceTargets:
    """Several classes of a picture may be true: binary cross-entropy, and average precision."""

    figure, table = "average_precision", "classes"
    held_out_decides = True  # which classes are in the mean

    def __init__(self, names: Sequence[str], prevalence: Sequence[float | int]) -> None:
        """`prevalence`: in the mean are classes that so small and so large a share shows."""
        self.names, self.prevalence = list(names), prevalence

    def metric(self, heads: int) -> AveragePrecision:
        """What measures so many heads."""
        return AveragePrecision(len(self.names), heads, self.prevalence)

    def losses(
        self,
        scores: Float[Tensor, "cells rates batch classes"],
        truth: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, "cells rates"]:
        """Each head's binary cross-entropy of what a picture may show."""
        return presence_losses(scores, truth.to(scores.dtype))

    def details(self, metric: AveragePrecision) -> None:
        """What a metric says of a test beside its figures: nothing."""

    def rows(
        self, tested: PictureFigures, head: int, details: None, learned_from: Sequence[int]
    ) -> list[Row]:
        """Of each class the test pictures that show it, and how well a head ranks them."""
        each = zip(self.names, tested.pictures, tested.each[head], tested.counted, strict=True)
        return [
            {"class": name, "pictures": pictures, self.figure: value, "in_mean": counted}
            for name, pictures, value, counted in each
        ]

    def spoken(self, scores: Float[Tensor, " classes"]) -> list[Row]:
        """The likeliest classes of one picture, from what a head says of it."""
        return likeliest(self.names, scores.sigmoid())
