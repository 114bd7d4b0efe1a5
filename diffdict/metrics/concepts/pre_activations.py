"""Pre-activations at native resolution, in pieces that fit: some latents or some rows of tokens."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.errors import UserError

PIECE = 2**23  # float32 numbers of a piece: 32 MiB


# On demand: `pre(part)` of some latents, a slice or a tensor, as [pictures, part, rows, columns];
# and where latents are ranked, `pre(part, rows)` in some rows of the maps. Affine in the features.
Pre = Callable[..., Tensor]
PreActivations = Pre | Float[Tensor, "pictures latents rows columns"]
LatentPart = slice | Int64[Tensor, " part"]  # some of the latents
Encode = Callable[[Float[Tensor, "tokens d_in"], LatentPart], Float[Tensor, "tokens part"]]


def pre_of(encode: Encode, maps: Float[Tensor, "pictures height width d_in"]) -> Pre:
    """Pre-activations of features on demand."""

    def pre(part: LatentPart, rows: slice = slice(None)) -> Tensor:
        some = maps[:, rows]
        return encode(some.flatten(0, 2), part).unflatten(0, some.shape[:3]).permute(0, 3, 1, 2)

    return pre


class Piece(NamedTuple):
    """Some latents at some tokens."""

    part: slice  # of the latents
    rows: slice  # of the tokens' grid
    tokens: Float[Tensor, "tokens part"]  # picture after picture, row after row (and one below)


class Native:
    """The pre-activations of some pictures, computed when they are asked for."""

    def __init__(self, pre: PreActivations, latents: int) -> None:
        if isinstance(pre, Tensor) and pre.shape[1] != latents:
            raise UserError(f"{latents} latents have thresholds, {pre.shape[1]} pre-activations")
        self._pre, self.latents = pre, latents
        first = self._maps(slice(0, 1), slice(None))
        self.pictures, self.grid, self.device = len(first), tuple(first.shape[2:]), first.device

    def parts(self) -> Iterator[Piece]:
        """Some latents at all tokens, then some more."""
        step = max(1, PIECE // (self.pictures * self.grid[0] * self.grid[1]))
        rows = slice(None)
        for start in range(0, self.latents, step):
            part = slice(start, min(start + step, self.latents))
            yield Piece(part, rows, self.at(part))

    def bands(self, below: int = 0) -> Iterator[Piece]:
        """All latents in some rows of tokens, with so many below them, then in some more."""
        height, width = self.grid
        step = max(1, PIECE // (self.pictures * width * self.latents))
        for start in range(0, height, step):
            stop = min(start + step, height)
            tokens = self.at(slice(None), slice(start, min(stop + below, height)))
            yield Piece(slice(None), slice(start, stop), tokens)

    def active(
        self, floors: Float[Tensor, " latents"], ranked: int | None = None
    ) -> Iterator[Piece]:
        """Pre-activations that make a code, above their floor or among the k; others are -inf."""
        for part, rows, tokens in self.bands() if ranked else self.parts():
            above = tokens > floors[part]
            if ranked:
                first = tokens.topk(min(ranked, self.latents), sorted=False).indices
                above &= torch.zeros_like(above).scatter_(1, first, True)
            yield Piece(part, rows, tokens.masked_fill(~above, -torch.inf))

    def at(self, part: LatentPart, rows: slice = slice(None)) -> Float[Tensor, "tokens part"]:
        """These latents at the tokens of these rows."""
        maps = self._maps(part, rows).detach()
        tokens = maps.permute(0, 2, 3, 1).flatten(0, 2).float().contiguous()
        if not tokens.sum().isfinite():
            raise UserError("Pre-activations hold NaN or infinity: the dictionary is not usable")
        return tokens

    def _maps(self, part: slice | Tensor, rows: slice) -> Tensor:
        if isinstance(self._pre, Tensor):
            return self._pre[:, part, rows]
        return self._pre(part) if rows == slice(None) else self._pre(part, rows)
