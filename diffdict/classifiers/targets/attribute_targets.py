"""Attributes as what a linear head learns: its loss, its figures, and its rows in tables."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffdict.data.attributes import Attribute
from diffdict.metrics.accuracy import PictureFigures
from diffdict.metrics.attributes.attribute_scores import AttributeScores, attribute_losses
from diffdict.results.tables import Row


class AttributeTargets:
    """Binary attributes by cross-entropy and average precision, numbers by squared error and r."""

    figure, table = "score", "attributes"
    held_out_decides = True  # which attributes are in the mean

    def __init__(self, attributes: Sequence[Mapping]) -> None:
        """In the order of a head's answers."""
        self.attributes = [Attribute(**attribute) for attribute in attributes]
        self.binary = torch.tensor([one.kind == "binary" for one in self.attributes])

    def metric(self, heads: int) -> AttributeScores:
        """What measures so many heads."""
        return AttributeScores(self.binary.tolist(), heads)

    def losses(
        self,
        scores: Float[Tensor, "cells rates batch attributes"],
        truth: Float[Tensor, "batch attributes"],
    ) -> Float[Tensor, "cells rates"]:
        """Each head's mean over what is known; numbers as they are, not standardized."""
        return attribute_losses(scores, truth, self.binary.to(scores.device))

    def details(self, metric: AttributeScores) -> Float64[Tensor, "heads attributes two"]:
        """What a metric says of a test beside its figures: the errors of numbers."""
        return metric.errors_of_numbers()

    def rows(
        self,
        tested: PictureFigures,
        head: int,
        details: Float64[Tensor, "heads attributes two"],
        learned_from: Sequence[int],
    ) -> list[Row]:
        """Of each attribute how well a head tells it."""
        rows, errors = [], details[head]
        for i, attribute in enumerate(self.attributes):
            number = attribute.kind == "number"
            rows.append(
                {
                    "attribute": attribute.name,
                    "kind": attribute.kind,
                    "pictures": tested.pictures[i],
                    "figure": "pearson" if number else "average_precision",
                    "score": tested.each[head][i],
                    "mse": float(errors[i, 0]) if number else None,
                    "r2": float(errors[i, 1]) if number else None,
                    "in_mean": tested.counted[i],
                }
            )
        return rows

    def spoken(self, scores: Float[Tensor, " attributes"]) -> list[Row]:
        """What a head says of one picture: how likely each binary attribute is, each number."""
        rows = []
        for attribute, score in zip(self.attributes, scores, strict=True):
            binary = attribute.kind == "binary"
            value = float(score.sigmoid() if binary else score)
            meaning = "probability" if binary else "number"
            rows.append({"attribute": attribute.name, "value": value, "meaning": meaning})
        return rows
