"""Exact search among vectors by L2: nearest ones, and the rank of a query's source.

A product of two chunks finds candidates; where rounding could change the answer, distances are
computed anew, number by number in float64. So no answer depends on chunks, order or device.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.errors import UserError

CHUNK = 2048  # vectors, and queries, of one product
WIDE = 1e15  # above it the squares of float32 may overflow
EXACT = 1 << 22  # numbers of a difference that are held at once


def nearest(
    vectors: Float[Tensor, "n d"], queries: Float[Tensor, "queries _"], k: int
) -> Int[Tensor, "queries k"]:
    """The k nearest vectors of each query, nearest first; of equal ones the earlier first."""
    check_search(vectors, queries)
    if not 1 <= k <= len(vectors):
        raise UserError(f"k neighbours are 1 to the {len(vectors)} vectors there are, got k={k}")
    neighbours = []
    for rows, distances, slack in _chunks(vectors, queries):
        reach = distances.kthvalue(k, dim=1).values + 2 * slack
        for query, near in zip(queries[rows], distances <= reach[:, None], strict=True):
            candidates = near.nonzero()[:, 0]
            exact = _exact(vectors, query, candidates)
            neighbours.append(candidates[exact.argsort(stable=True)[:k]])
    return torch.stack(neighbours)


def ranks(
    vectors: Float[Tensor, "n d"],
    queries: Float[Tensor, "queries _"],
    sources: Int[Tensor, "_"] | Sequence[int],
) -> Int[Tensor, " queries"]:
    """The place of each query's source among all vectors by distance; 1 is best.

    It is one more than there are vectors strictly nearer: who is as near does not count.
    """
    check_search(vectors, queries)
    sources = torch.as_tensor(sources, device=vectors.device)
    if len(sources) != len(queries) or not bool(((sources >= 0) & (sources < len(vectors))).all()):
        raise UserError(
            f"Each of the {len(queries)} queries has one source, a number from 0 to "
            f"{len(vectors) - 1}, got {len(sources)} of them: {sources.tolist()[:8]}"
        )
    places = []
    for rows, distances, slack in _chunks(vectors, queries):
        for query, source, row, spare in zip(
            queries[rows], sources[rows], distances, slack, strict=True
        ):
            distance = row[source]
            nearer = (row < distance - 2 * spare).sum()
            close = ((row - distance).abs() <= 2 * spare).nonzero()[:, 0]
            exact = _exact(vectors, query, close)
            limit = _exact(vectors, query, source[None])
            places.append(1 + nearer + (exact < limit).sum())
    return torch.stack(places)


def check_search(vectors: Tensor, queries: Tensor) -> None:
    """Both are rows of numbers of one width."""
    if vectors.ndim != 2 or queries.ndim != 2 or vectors.shape[1] != queries.shape[1]:
        raise UserError(
            f"Vectors and queries are rows of one width, got {list(vectors.shape)} and "
            f"{list(queries.shape)}: take both from one representation"
        )
    if not len(vectors) or not len(queries):
        raise UserError(f"There is nothing to search: {len(vectors)} vectors, {len(queries)} rows")
    for name, rows in (("vectors", vectors), ("queries", queries)):
        broken = ~rows.isfinite().all(1)
        if bool(broken.any()):
            row = int(broken.nonzero()[0, 0])
            raise UserError(f"Row {row} of the {name} is no number: compute it again")


def _chunks(
    vectors: Tensor, queries: Tensor
) -> Iterator[tuple[slice, Float[Tensor, "rows n"], Float[Tensor, " rows"]]]:
    """Squared distances of some queries to all vectors, and by how much each may be wrong."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    if any(float(x.abs().max()) > WIDE for part in (vectors, queries) for x in part.split(CHUNK)):
        dtype = torch.float64
    centre = vectors.double().mean(0).to(dtype)  # near the origin less is rounded away
    squares = torch.cat(
        [(part.to(dtype) - centre).square().sum(1) for part in vectors.split(CHUNK)]
    )
    width = vectors.shape[1]
    unit = (width + 8) * torch.finfo(dtype).eps
    step = max(1, min(CHUNK, EXACT // len(vectors)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        part = queries[rows].to(dtype) - centre
        norms = part.square().sum(1, keepdim=True)
        distances = torch.empty(len(part), len(vectors), dtype=dtype, device=vectors.device)
        for first in range(0, len(vectors), CHUNK):
            last = slice(first, first + CHUNK)
            near = vectors[last].to(dtype) - centre
            distances[:, last] = norms - 2 * (part @ near.T) + squares[last]
        yield rows, distances, unit * (norms[:, 0] + squares.max())


def _exact(
    vectors: Tensor, query: Float[Tensor, " d"], candidates: Int[Tensor, " some"]
) -> Float[Tensor, " some"]:
    """Squared distances in float64, a few candidates at a time."""
    step = max(1, EXACT // vectors.shape[1])
    return torch.cat(
        [
            (vectors[part].double() - query.double()).square().sum(1)
            for part in candidates.split(step)
        ]
        or [torch.zeros(0, dtype=torch.float64, device=vectors.device)]
    )


class RankFigures(NamedTuple):
    """What ranks say together."""

    mean_rank: float
    median_rank: float
    mrr: float  # mean of one over the rank
    top1: float  # shares
    top5: float


def rank_figures(places: Int[Tensor, " queries"]) -> RankFigures:
    """Of the places that sources have among all vectors."""
    places = places.double()
    return RankFigures(
        float(places.mean()),
        float(places.quantile(0.5)),
        float((1 / places).mean()),
        float((places <= 1).double().mean()),
        float((places <= 5).double().mean()),
    )
