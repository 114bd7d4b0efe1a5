"""`condition=manipulation`: what a picture shares with its neighbours, taken out or exchanged.

The dimensions of its vector that most of its neighbours have (Bordes et al. 2022).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.conditions.base import ConditionRows, MakesVectors, check_maker
from diffdict.conditions.pictures import PictureVectors
from diffdict.conditions.sources.chosen_pictures import ChosenPictures
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.metrics.retrieval import nearest
from diffdict.representations.codes import PooledCodes

KINDS = ("own", "common at 0", "common of target")
SHARES = ("none", "start", "all")  # which noise the kinds have in common


class ManipulatedVectors(ChosenPictures):
    """`each` samples of a picture's vector, of it without what is common, and with the target's."""

    def __init__(
        self,
        dataset: Callable[..., Pictures] | None = None,
        split: str = "test",
        picture: str | int | None = None,
        neighbours: str | None = None,
        neighbours_split: str = "train",
        target: str | int | None = None,
        k: int = 20,
        n_common: int = 14,
        floor: float | int = 0.0,
        each: int = 8,
        share: str = "none",
        fit: str | None = None,
        side: int | None = None,
        undirected: float | int = 0.0,
    ) -> None:
        """`picture`, `target`: files, or numbers of pictures of the split.

        `neighbours`: a folder that they are sought in; None: `neighbours_split` of the data set.
        `k`, `n_common`, `floor` are those of `common`. `share`: none, each sample has its own
        noise, as published; start or all, the kinds have the same.
        """
        check_common(k, n_common, floor)
        if share not in SHARES:
            raise UserError(f"condition.share is {', '.join(SHARES)}, got {share!r}")
        super().__init__(
            dataset,
            split,
            {"picture": picture, "target": target},
            each=each,
            fit=fit,
            side=side,
            undirected=undirected,
        )
        self.crowd = PictureVectors(dataset, neighbours_split, neighbours, None, 1, side)
        check_neighbours(k, self.crowd.count)
        self.k, self.n_common, self.floor = k, n_common, floor
        self.share = share
        self.number = len(KINDS) * each
        self._tables: dict[str, list[dict[str, str | int | float]]] = {}

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """`each` rows of the picture's own vector, then of both that are made of it."""
        maker = check_maker(maker)
        vector, target = pair = self.chosen_vectors(maker, width, device)
        crowd = self.crowd.vectors(maker, width, device)
        overlap = common(crowd, vector, self.k, self.n_common, self.floor)
        self._check_found(overlap, width, crowd, pair)
        counts = presence(crowd, overlap.neighbours, self.floor)
        self._tables = self._found_tables(maker, overlap, counts, vector, target)
        kinds = [
            vector,
            replaced(vector, overlap.dimensions),
            replaced(vector, overlap.dimensions, target),
        ]
        rows, own_places = range(self.number), [row % self.each for row in range(self.number)]
        return ConditionRows(
            torch.stack(kinds).repeat_interleave(self.each, 0),
            [KINDS[row // self.each] for row in rows],
            source=[0] * self.number,
            pictures=self.shown(maker),
            start=rows if self.share == "none" else own_places,
            steps=own_places if self.share == "all" else rows,
            line=[row // self.each for row in rows],
            target=[1 if row >= 2 * self.each else -1 for row in rows],
        )

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """The pictures, how the dimensions are chosen, and the network that looks at them."""
        return {
            "condition": "manipulation",
            "neighbours": self.crowd.fingerprint,
            "common": [self.k, self.n_common, self.floor],
            "share": self.share,
            **self.chosen_facts(maker),
        }

    def tables(self) -> Mapping[str, Sequence[Mapping[str, str | int | float]]]:
        """The common dimensions, and the neighbours."""
        return self._tables

    def _check_found(self, overlap: "Common", width: int, crowd: Tensor, pair: Tensor) -> None:
        """Something is common and something is not; says which picture is its own neighbour."""
        there = f"k={self.k}, n_common={self.n_common}, floor={self.floor}"
        if not len(overlap.dimensions):
            raise UserError(
                f"The neighbours have no dimension in common ({there}), so nothing would change: a "
                "smaller condition.n_common or condition.floor"
            )
        if len(overlap.dimensions) == width:
            raise UserError(
                f"The neighbours have all {width} dimensions in common ({there}), so nothing of "
                "the picture would stay: a trunk or codes have zeros, a head or other blocks need "
                "condition.floor=0.5, say, or more"
            )
        nearby = crowd[overlap.neighbours]
        for one, vector in zip(self.chosen, pair, strict=True):
            if bool((nearby == vector).all(1).any()):
                warnings.warn(
                    f"condition.{one.key} ({one.name}) is among the neighbours itself: it is kept, "
                    "and counts as one of them.",
                    stacklevel=2,
                )

    def _found_tables(
        self, maker: MakesVectors, overlap: "Common", counts: Tensor, vector: Tensor, target: Tensor
    ) -> dict[str, list[dict[str, str | int | float]]]:
        names = self.crowd.names()
        latents = maker.latents if isinstance(maker, PooledCodes) else None
        dimensions = [
            {
                "dimension": dimension,
                **({} if latents is None else {"latent": latents[dimension]}),
                "neighbours": count,
                "own": float(vector[dimension]),
                "target": float(target[dimension]),
            }
            for dimension, count in zip(
                overlap.dimensions.tolist(), counts[overlap.dimensions].tolist(), strict=True
            )
        ]
        neighbours = [
            {"place": place, "picture": names[index]}
            for place, index in enumerate(overlap.neighbours.tolist(), 1)
        ]
        return {"dimensions": dimensions, "neighbours": neighbours}


class Common(NamedTuple):
    """What the neighbours of a picture have in common."""

    neighbours: Int[Tensor, " k"]  # nearest first
    dimensions: Int[Tensor, " common"]  # present in more than n_common of them


def common(
    vectors: Float[Tensor, "n d"],
    query: Float[Tensor, "..."],
    k: int = 20,
    n_common: int = 14,
    floor: float | int = 0.0,
) -> Common:
    """Dimensions present in more than `n_common` of the k neighbours of a raw vector.

    As published the neighbours' vectors have length 1 and the query keeps its own. `floor` is the
    share of a dimension's largest size among the vectors above which it counts as present.
    """
    check_common(k, n_common, floor)
    check_neighbours(k, len(vectors))
    query = query.reshape(1, -1)
    lengths = vectors.norm(dim=1, keepdim=True)
    unit = vectors / torch.where(lengths > 0, lengths, 1)
    neighbours = nearest(unit, query.to(unit.dtype), k)[0]
    present = presence(vectors, neighbours, floor)
    return Common(neighbours, (present > n_common).nonzero()[:, 0])


def presence(
    vectors: Float[Tensor, "n d"], neighbours: Int[Tensor, " k"], floor: float | int = 0.0
) -> Int[Tensor, " d"]:
    """In how many of the neighbours each dimension is present."""
    return (vectors[neighbours].abs() > floor * vectors.abs().amax(0)).sum(0)


def check_common(k: int, n_common: int, floor: float | int) -> None:
    """More than n_common of k can have something, above a floor that is a share."""
    if k < 1:
        raise UserError(f"k is a number of neighbours, 1 or more, got {k}: 20 is published")
    if not 0 <= n_common < k:
        raise UserError(
            f"n_common lies in 0..{k - 1} for k={k} neighbours, got {n_common}: 14 of 20"
        )
    if not 0 <= floor < 1:
        raise UserError(f"floor is a share in [0, 1), got {floor}: 0 is published")


def check_neighbours(k: int, pictures: int) -> None:
    """As many pictures as neighbours that are sought among them."""
    if pictures < k:
        raise UserError(
            f"k={k} neighbours are sought among {pictures} pictures: give more pictures, or "
            "a smaller k"
        )


def replaced(
    query: Float[Tensor, " d"],
    dimensions: Int[Tensor, " common"],
    target: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, " d"]:
    """The vector with these dimensions at zero, or at the target's values."""
    changed = query.clone()
    changed[dimensions] = 0 if target is None else target[dimensions]
    return changed
