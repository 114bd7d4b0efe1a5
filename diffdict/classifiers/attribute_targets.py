"""Attributes as what a linear head learns: its loss, its figures, and its rows in tables."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffdict.data.attributes import Attribute
from diffdict.metrics.accuracy import PictureFigures
from diffdict.metrics.attribute_scores import AttributeScores, attribute_losses

Rows = list[dict[str, str | int | float | bool | None]]


class AttributeTargets:
    """Binary attributes by cross-entropy and average precision, numbers by squared error and r."""

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

    def rows(
        self, tested: PictureFigures, head: int, errors: Float64[Tensor, "attributes two"]
    ) -> Rows:
        """Of each attribute how well a head tells it."""
        rows = []
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

    def spoken(self, scores: Float[Tensor, " attributes"]) -> Rows:
        """What a head says of one picture: how likely each binary attribute is, each number."""
        rows = []
        for attribute, score in zip(self.attributes, scores, strict=True):
            binary = attribute.kind == "binary"
            value = float(score.sigmoid() if binary else score)
            meaning = "probability" if binary else "number"
            rows.append({"attribute": attribute.name, "value": value, "meaning": meaning})
        return rows
