"""Samples of pictures beside their sources: ranks, distances, the share of variance."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.metrics.retrieval import rank_figures, ranks
from diffdict.metrics.samples.variance_share import VarianceShare, variance_share
from diffdict.results.tables import Row

SAME = 1e-5  # of the length of a vector: nearer ones are of one picture


class SourceFigures(NamedTuple):
    """What the vectors of samples say of their sources."""

    ranks: Int[Tensor, " samples"]
    gallery: int  # so many pictures the sources were sought among
    share: VarianceShare | None  # None: each source has one sample
    figures: dict[str, float | None]

    @classmethod
    def of(
        cls,
        drawn: Float[Tensor, "samples width"],
        source: Int[Tensor, " samples"],
        sources: Float[Tensor, "sources width"],
        gallery: Float[Tensor, "pictures width"],
    ) -> "SourceFigures":
        """`gallery` begins with the sources."""
        places, share = ranks(gallery, drawn, source), variance_share(drawn, source)
        figures = {
            **rank_figures(places)._asdict(),
            "chance_rank": (len(gallery) + 1) / 2,
            **distances(drawn, sources, source),
            "distance_samples": between_samples(drawn, source),
            "variance_kept": None if share is None else share.whole,
        }
        return cls(places, len(gallery), share, figures)

    def each_source(
        self,
        drawn: Float[Tensor, "samples width"],
        source: Int[Tensor, " samples"],
        sources: Float[Tensor, "sources width"],
        names: Sequence[str],
    ) -> list[Row]:
        """A row a source; `names` are the samples'."""
        rows: list[Mapping] = []
        for number in source.unique().tolist():
            places = (source == number).nonzero()[:, 0]
            apart = distances(drawn[places], sources, source[places])
            figures = rank_figures(self.ranks[places])._asdict()
            rows.append({"picture": names[int(places[0])], **figures, **apart})
        return rows

    def each_dimension(self) -> list[Row]:
        """The share of variance of every dimension; none where nothing varies."""
        return [
            {"dimension": place, "variance_kept": None if value != value else value}
            for place, value in enumerate(self.share.each.tolist() if self.share else ())
        ]


def distances(
    drawn: Float[Tensor, "n d"],
    sources: Float[Tensor, "sources d"],
    source: Int[Tensor, " n"] | Sequence[int],
) -> dict[str, float | None]:
    """Mean squared L2 and cosine to the own source, and to the others; None: there are none."""
    drawn, sources = drawn.double(), sources.double()
    own = F.one_hot(torch.as_tensor(source), len(sources)).bool()
    squared = torch.cdist(drawn, sources, compute_mode="donot_use_mm_for_euclid_dist").square()
    cosine = F.normalize(drawn, dim=1) @ F.normalize(sources, dim=1).T
    alone = len(sources) == 1
    return {
        "distance_own": float(squared[own].mean()),
        "distance_other": None if alone else float(squared[~own].mean()),
        "cosine_own": float(cosine[own].mean()),
        "cosine_other": None if alone else float(cosine[~own].mean()),
    }


def between_samples(drawn: Float[Tensor, "n d"], source: Int[Tensor, " n"]) -> float | None:
    """Mean squared L2 of two samples of one source; None where each has one."""
    squares = []
    for number in source.unique():
        samples = drawn[source == number].double()
        if len(samples) > 1:
            squares.append(2 * samples.var(0).sum())
    return float(torch.stack(squares).mean()) if squares else None


def squared_gap(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"]) -> float:
    """Mean squared L2 of vectors one by one."""
    return float((first.double() - second.double()).square().sum(1).mean())


def without(
    vectors: Float[Tensor, "n d"], sources: Float[Tensor, "sources d"]
) -> Float[Tensor, "left d"]:
    """Those that are no source's own; of one picture they differ by rounding alone."""
    apart = torch.cdist(
        vectors.double(), sources.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    limit = SAME * sources.double().square().sum(1).mean().sqrt()
    return vectors[(apart > limit).all(1)]
