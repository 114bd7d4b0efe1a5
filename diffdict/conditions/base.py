"""The contract of `condition=`: rows of vectors, one a sample, and what a sheet says of each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.denoiser import Denoiser
from diffdict.errors import UserError

BATCH = 64  # pictures that are turned into vectors together, on every rank alike


@runtime_checkable
class MakesVectors(Protocol):
    """A frozen network that makes one vector of a picture: a representation, a PDAE's encoder."""

    name: str
    dim: int
    image_size: int | None  # side of the pictures that it is shown; None: as they come
    sha256: str  # of all that changes a number

    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Of pictures in [-1, 1]."""


class ConditionRows(NamedTuple):
    """What the samples are drawn from, a row each."""

    vectors: Float[Tensor, "rows width"]
    captions: Sequence[str]  # what a sheet says of each row
    source: Sequence[int]  # which of `pictures` the row's vector is of; -1: of none
    pictures: Float[Tensor, "sources 3 side side"] | None  # in [-1, 1], for the sheet
    start: Sequence[int]  # whose start noise the row begins with
    steps: Sequence[int]  # whose noise its steps draw
    line: Sequence[int] | None = None  # of the sheet; None: those of one source together
    target: Sequence[int] | None = None  # which of `pictures` the row leads to; -1: to none
    latent: Sequence[int] | None = None  # which one is switched in the row; -1: a random direction
    strength: Sequence[float] | None = None  # how far: 0 is off, 1 on

    def noise_of(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Whose start noise and whose noise of the steps these rows have."""
        return [self.start[row] for row in rows], [self.steps[row] for row in rows]


class ConditionSource(ABC):
    """Where rows come from; a subclass is a word of `condition=`.

    `number` says how many rows there are, None: as many samples as are asked for. `undirected` is
    the share of the last steps that see no vector.
    """

    number: int | None = None
    undirected: float | int = 0.0

    @abstractmethod
    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """All rows, each vector `width` wide; `maker` turns pictures into them."""

    @abstractmethod
    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """All that changes a number of a vector."""

    def tables(self) -> Mapping[str, Sequence[Mapping[str, str | int | float]]]:
        """What was found while the rows were made, kept beside the samples."""
        return {}

    def check_share(self) -> None:
        """A share of the steps is between none and all of them."""
        if not 0 <= self.undirected <= 1:
            raise UserError(
                f"undirected, the share of the last steps without a vector, lies in [0, 1], got "
                f"{self.undirected}: 0.3 is published for codes that were drawn"
            )


def check_condition(net: Denoiser, maker: MakesVectors | None) -> None:
    """Only a network that is told vectors is drawn from rows of them, and of those it knows."""
    if net.condition.width is None:
        raise UserError(
            f"{net.name} is told no vector, so it draws from noise alone: condition=none, or a "
            "network that is told one (backbone=pdae, backbone=rcdm)"
        )
    if maker is not None and maker.dim != net.condition.width:
        raise UserError(
            f"{net.name} is told vectors of width {net.condition.width}, {maker.name} gives "
            f"{maker.dim}: representation= as in the training (representation.part=head where it "
            "was a head), or weights that learned with this one"
        )
    sha256 = net.learned_with.get("representation_sha256")
    if maker is not None and sha256 not in (None, maker.sha256):
        name = net.learned_with.get("representation_name", "another")
        raise UserError(
            f"{net.name} learned with the vectors of {name} ({sha256[:12]}…), and {maker.name} is "
            f"{maker.sha256[:12]}…: say representation= and its settings as in the training"
        )


def check_unconditioned(net: Denoiser) -> None:
    """An RCDM draws without a vector only what it has learned without one.

    A PDAE without a code is the diffusion network that it was learned on.
    """
    if net.condition.width is None or not net.condition.optional:
        return
    if not net.drop:
        raise UserError(
            f"{net.name} has learned no picture without its vector, so it is drawn from one: "
            "condition=pictures, or a network that was trained with model.drop=0.1"
        )
    print(f"{net.name} is told no vector: it learned {net.drop:.0%} of its pictures so")


def check_maker(maker: MakesVectors | None) -> MakesVectors:
    """The network that makes vectors of pictures, where there is one."""
    if maker is None:
        raise UserError(
            "Vectors of pictures are asked for, and this network brings nothing that makes them: "
            "representation=…, or condition=file with vectors that were made before"
        )
    return maker


def plain_rows(
    vectors: Float[Tensor, "rows width"],
    captions: Sequence[str],
    source: Sequence[int] | None = None,
    pictures: Float[Tensor, "sources 3 side side"] | None = None,
) -> ConditionRows:
    """Rows that each own their noise by their place."""
    places = range(len(vectors))
    source = [-1] * len(vectors) if source is None else source
    return ConditionRows(vectors, captions, source, pictures, places, places)


def check_vectors(
    vectors: Float[Tensor, "rows _"], width: int, names: Sequence[str], place: str, network: str
) -> None:
    """Vectors as wide as the network takes them, of finite numbers."""
    if vectors.shape[1] != width:
        raise UserError(
            f"{network} is told vectors of {width} numbers, {place} has {vectors.shape[1]}: give "
            f"vectors of {width}, or the network that these were made for"
        )
    broken = ~vectors.isfinite().all(1).cpu()
    if broken.any():
        raise UserError(
            f"The vector of {names[int(broken.nonzero()[0])]} ({place}) holds NaN or infinity: "
            "check the weights of what made it, or leave it out"
        )


@torch.no_grad()
def picture_vectors(
    maker: MakesVectors, images: Sequence[Tensor], device: torch.device
) -> Float[Tensor, "pictures dim"]:
    """One vector a picture, in batches of a fixed size."""
    parts = [
        maker.vectors(torch.stack(list(images[at : at + BATCH])).to(device)).float().cpu()
        for at in range(0, len(images), BATCH)
    ]
    return torch.cat(parts)
