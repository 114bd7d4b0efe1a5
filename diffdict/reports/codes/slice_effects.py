"""What a slice of a code carries over: attributes that followed it, and others that moved."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffdict.data.base import Pictures
from diffdict.reports.codes.code_reader import CodeReader
from diffdict.results.tables import Row


class ReadPairs(NamedTuple):
    """What a probe reads of pairs of pictures, each drawn again with its own code."""

    begin: Float[Tensor, "pairs attributes"]  # of the pictures whose slice was taken away
    end: Float[Tensor, "pairs attributes"]  # of those whose slice they got
    differ: Bool[Tensor, "pairs attributes"]  # in what the two are not alike
    alike: Bool[Tensor, "pairs attributes"]  # both False: unknown
    deviation: Float[Tensor, " attributes"]  # of the readings of all these pictures


class SliceEffect(NamedTuple):
    """Of each attribute; NaN where no pair tells it."""

    followed: Float[Tensor, " attributes"]  # share of the way, of pairs that differ in it
    moved: Float[Tensor, " attributes"]  # in deviations, of pairs that are alike in it


def slice_effect(pairs: ReadPairs, read: Float[Tensor, "pairs attributes"]) -> SliceEffect:
    """How far the readings went from the first picture's towards, or away without, the second's.

    The share is the least-squares slope over pairs: 1 is all the way.
    """
    change, way = read - pairs.begin, pairs.end - pairs.begin
    followed = (change * way * pairs.differ).sum(0) / (way.square() * pairs.differ).sum(0)
    squares = (change.square() * pairs.alike).sum(0) / pairs.alike.sum(0)
    return SliceEffect(followed, squares.sqrt() / pairs.deviation)


def effect_rows(
    part: str, entries: int, names: Sequence[str], pairs: ReadPairs, effects: Sequence[SliceEffect]
) -> list[Row]:
    """A row an attribute, and first their mean; `effects`: of the slice, and of random entries."""
    columns = ("followed", "others_moved", "random_followed", "random_moved")
    figures = torch.stack([figure for effect in effects for figure in effect])
    means = figures.nanmean(1).tolist()
    count = int((pairs.differ | pairs.alike).any(1).sum())
    first = {"part": part, "entries": entries}
    rows: list[Row] = [
        first | {"attribute": "mean", **dict(zip(columns, means, strict=True)), "differing": count}
    ]
    differing = pairs.differ.sum(0).tolist()
    for name, values, pairs_told in zip(names, figures.T.tolist(), differing, strict=True):
        cells = dict(zip(columns, values, strict=True))
        rows.append(first | {"attribute": name, **cells, "differing": pairs_told})
    return rows


def pair_differences(
    pictures: Pictures,
    pairs: Sequence[tuple[int, int]],
    reader: CodeReader,
    begin: Float[Tensor, "pairs attributes"],
    end: Float[Tensor, "pairs attributes"],
) -> tuple[Bool[Tensor, "pairs attributes"], Bool[Tensor, "pairs attributes"]]:
    """In which attributes the two of each pair differ, and in which they are alike.

    As the set says it; of attributes that it does not know, as they are read. Numbers differ from
    one deviation on, and are alike up to half of one.
    """
    sides = [torch.where(reader.binary, (x > reader.cutoffs).float(), x) for x in (begin, end)]
    columns = {one.name: column for column, one in enumerate(pictures.attributes)}
    if columns:
        truth = torch.stack(
            [torch.stack([pictures.labels(i)["attributes"] for i in pair]) for pair in pairs]
        )
        for column, name in enumerate(reader.names):
            if name in columns:
                sides[0][:, column], sides[1][:, column] = truth[:, :, columns[name]].unbind(1)
    apart = (sides[0] - sides[1]).abs()  # NaN where unknown: neither
    least = torch.where(reader.binary, 0.5, reader.deviation)
    return apart > least, apart <= least / 2
