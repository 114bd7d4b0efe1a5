"""What names latents and what judges names: any callables of these forms."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Namer(Protocol):
    """`namer._target_=`: from crops of what latents are active at to candidates for their names."""

    def __call__(
        self, crops: Mapping[int, Float[Tensor, "n 3 h w"]]
    ) -> Mapping[int, Sequence[str]]:
        """By latent, the best first; crops in [-1, 1]. A latent may be left out."""


@runtime_checkable
class Scorer(Protocol):
    """`scorer._target_=`: how well each text fits each crop, as CLIP says it; larger is better."""

    def __call__(
        self, crops: Float[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[Tensor, "n texts"]:
        """Crops in [-1, 1]."""
