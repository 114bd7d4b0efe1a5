"""The class of a whole picture as what a linear head learns: its loss, its figures, its rows."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from diffdict.classifiers.linear import class_losses
from diffdict.metrics.accuracy import Accuracy, PictureFigures
from diffdict.results.tables import Row

LIKELIEST = 5  # classes that are told of one picture


class ClassTargets:
    """One class of a picture is true: cross-entropy, and the share that is told right."""

    figure, table = "accuracy", "classes"
    held_out_decides = False  # every class is in the mean

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def metric(self, heads: int) -> Accuracy:
        """What measures so many heads."""
        return Accuracy(len(self.names), heads)

    def losses(
        self,
        scores: Float[Tensor, "cells rates batch classes"],
        truth: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, "cells rates"]:
        """Each head's cross-entropy, a mean over the pictures whose class is known."""
        return class_losses(scores, truth.to(scores.dtype))

    def details(self, metric: Accuracy) -> None:
        """What a metric says of a test beside its figures: nothing."""

    def rows(
        self, tested: PictureFigures, head: int, details: None, learned_from: Sequence[int]
    ) -> list[Row]:
        """Of each class the test pictures that show it, and how many of them a head tells right.

        `learned_from`: the training pictures of each.
        """
        each = zip(self.names, tested.pictures, tested.each[head], learned_from, strict=True)
        return [
            {"class": name, "pictures": pictures, "recall": recall, "train_pictures": examples}
            for name, pictures, recall, examples in each
        ]

    def spoken(self, scores: Float[Tensor, " classes"]) -> list[Row]:
        """The likeliest classes of one picture, from what a head says of it."""
        return likeliest(self.names, scores.softmax(0))


def likeliest(names: Sequence[str], shares: Float[Tensor, " classes"]) -> list[Row]:
    """The classes with the largest probabilities."""
    first = shares.argsort(descending=True)[:LIKELIEST].tolist()
    return [{"class": names[i], "probability": float(shares[i])} for i in first]
