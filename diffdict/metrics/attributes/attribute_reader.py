"""Attributes read off vectors by ridge in closed form, and how much of them samples keep."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from diffdict.metrics.attributes.attribute_scores import best_ridges, pearson, squared_errors
from diffdict.metrics.attributes.rank_correlation import spearman
from diffdict.metrics.attributes.ridge import AttributeSums, RidgeGroup
from diffdict.metrics.samples.variance_share import variance_share

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SHIFTS = 8  # other sources that a sample is compared with, for chance


class AttributeReader:
    """A linear answer to each attribute, learned from the pictures that the groups sum up."""

    def __init__(self, groups: Sequence[RidgeGroup], ridge: float | Sequence[float] = 1e-2) -> None:
        """`ridge`: one for all, or one of each attribute."""
        self.groups = list(groups)
        self.number = sum(len(group.attributes) for group in groups)
        ridges = torch.as_tensor(ridge, dtype=torch.float64).expand(self.number)
        self.weights = [_weight(group, ridges[group.attributes.cpu()]) for group in self.groups]

    def read(self, rows: Float[Tensor, "pictures width"]) -> Float64[Tensor, "pictures attributes"]:
        """What these vectors say of each attribute."""
        out = torch.empty(len(rows), self.number, dtype=torch.float64)
        for group, weight in zip(self.groups, self.weights, strict=True):
            standard = group.standardized(rows.to(group.mean.device))
            out[:, group.attributes.cpu()] = (group.level + standard @ weight).cpu()
        return out

    @property
    def cutoffs(self) -> Float64[Tensor, " attributes"]:
        """Midway between the mean answers of pictures without a binary attribute, and with it.

        By the normal equations: with p the share that has it, c = E[(y - p)(x - mean)] and w the
        weights, these means are p w·c / (p (1 - p)) apart.
        """
        out = torch.empty(self.number, dtype=torch.float64)
        for group, weight in zip(self.groups, self.weights, strict=True):
            share = group.level
            apart = (weight * group.with_attributes).sum(0) / (share * (1 - share))
            out[group.attributes.cpu()] = (share + (0.5 - share) * apart).cpu()
        return out


def _weight(group: RidgeGroup, ridges: Float64[Tensor, " own"]) -> Float64[Tensor, "channels own"]:
    """Of standardized rows, each attribute under its own ridge."""
    weight = torch.empty_like(group.with_attributes)
    for ridge in ridges.unique().tolist():
        part = (ridges == ridge).to(weight.device)
        weight[:, part] = torch.cholesky_solve(group.with_attributes[:, part], group.factor(ridge))
    return weight


def fit_reader(
    fit: tuple[Float[Tensor, "n width"], Float[Tensor, "n attributes"]],
    held: tuple[Float[Tensor, "m width"], Float[Tensor, "m attributes"]],
    binary: Bool[Tensor, " attributes"],
    ridges: Sequence[float] = RIDGES,
) -> AttributeReader:
    """From vectors and attributes of pictures: those held out choose each ridge, then join in."""
    sums = AttributeSums(fit[0].shape[1], len(binary))
    sums.update(*fit)
    groups = sums.groups()
    tried = torch.stack([AttributeReader(groups, ridge).read(held[0]) for ridge in ridges], dim=1)
    chosen = best_ridges(tried, held[1], binary).indices
    sums.update(*held)
    return AttributeReader(sums.groups(), [ridges[place] for place in chosen.tolist()])


def attribute_accuracy(
    answers: Float64[Tensor, "pictures attributes"],
    truth: Float[Tensor, "pictures attributes"],
    binary: Bool[Tensor, " attributes"],
    cutoffs: Float64[Tensor, " attributes"],
) -> Float64[Tensor, " attributes"]:
    """Balanced accuracy of binary attributes, Pearson's r of numbers; nan where all is alike."""
    out = torch.full((len(binary),), torch.nan, dtype=torch.float64)
    for place in range(len(binary)):
        known = ~truth[:, place].isnan()
        scores, values = answers[known, place], truth[known, place].double()
        if not binary[place]:
            if len(values) > 1:
                out[place] = pearson(scores[:, None, None], values[:, None])[0, 0]
            continue
        positive, has = scores > cutoffs[place], values > 0.5
        if bool(has.any()) and not bool(has.all()):
            out[place] = (positive[has].double().mean() + (~positive[~has]).double().mean()) / 2
    return out


class KeptAttributes(NamedTuple):
    """Of each attribute, in the figure of its kind."""

    reader: Float64[Tensor, " attributes"]  # how well it is read off real pictures
    reader_r2: Float64[Tensor, " attributes"]
    vector: Float64[Tensor, " attributes"]  # how well the vector tells it of real pictures
    kept: Float64[Tensor, " attributes"]  # what is read off samples, against their source
    chance: Float64[Tensor, " attributes"]  # against other sources
    variance: Float64[Tensor, " attributes"]  # share of it that lies between sources

    def agreement(self, binary: Bool[Tensor, " attributes"]) -> tuple[float, float]:
        """Rank correlation of what the vector tells with what samples keep, and with variance."""
        vector, samples = (
            torch.where(binary, 2 * one - 1, one).tolist() for one in (self.vector, self.kept)
        )
        return spearman(vector, samples), spearman(vector, self.variance.tolist())


def kept_attributes(
    reader: AttributeReader,
    teller: AttributeReader,
    binary: Bool[Tensor, " attributes"],
    *,
    real: tuple[Float[Tensor, "pictures _"], Float[Tensor, "pictures _"]],
    truth: Float[Tensor, "pictures attributes"],
    drawn: Float[Tensor, "samples _"],
    source: Int[Tensor, " samples"],
    of_source: Float[Tensor, "sources attributes"],
) -> KeptAttributes:
    """`real`: the vectors of real pictures by reader and teller, whose `truth` is known.

    `drawn`: those of samples by the reader; `of_source`: the attributes of their sources.
    """
    read, teller_answers = reader.read(real[0]), teller.read(real[1])
    answers, number = reader.read(drawn), len(of_source)
    accuracies = [
        attribute_accuracy(answers, of_source[(source + shift) % number], binary, reader.cutoffs)
        for shift in range(min(SHIFTS, number - 1) + 1)
    ]
    others = torch.stack(accuracies[1:]) if number > 1 else torch.full((1, len(binary)), torch.nan)
    share = variance_share(answers, source)
    return KeptAttributes(
        attribute_accuracy(read, truth, binary, reader.cutoffs),
        squared_errors(read[:, None], truth)[0, :, 1],
        attribute_accuracy(teller_answers, truth, binary, teller.cutoffs),
        accuracies[0],
        torch.where(binary, others, others.abs()).nanmean(0),
        torch.full((len(binary),), torch.nan).double() if share is None else share.each,
    )
