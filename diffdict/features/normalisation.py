"""Features before anything is learned from them: channels left out, tokens or channels evened."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffdict.errors import UserError, override
from diffdict.features.store.shards import Stream

WAYS = ("none", "token", "channel")
SMALL = 1e-6  # added to variances, as diffusion transformers' own norms do


class Normalisation(NamedTuple):
    """What is done to every map: first the channels go, then the rest is brought to one size.

    token: each token has mean 0 and deviation 1 over its channels (layer norm without weights, as
    before a transformer's modulation). channel: each channel has them over the positions of its
    picture (instance norm: what a picture has everywhere is gone, what differs in it stays).
    Neither needs statistics of the data, so that one picture is seen as a million are.
    """

    way: str = "none"
    drop: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether maps stay as they are."""
        return self.way == "none" and not self.drop

    @property
    def whole_pictures(self) -> bool:
        """Whether a token depends on its picture's others."""
        return self.way == "channel"

    @property
    def facts(self) -> dict[str, object]:
        """For the data's identity; nothing where nothing is done."""
        return {} if self.plain else {"normalise": self.way, "drop_channels": list(self.drop)}

    def streams(self, streams: Iterable[Stream]) -> list[Stream]:
        """What these are afterwards; refuses what cannot be done to one of them."""
        return [self._stream(stream) for stream in streams]

    def _stream(self, stream: Stream) -> Stream:
        if self.whole_pictures and stream.height * stream.width == 1:
            raise UserError(
                f"data.normalise=channel evens a channel over the positions of a picture, and "
                f"{stream.name} has one: data.normalise=token"
            )
        wrong = [channel for channel in self.drop if not 0 <= channel < stream.channels]
        if wrong or len(self.drop) >= stream.channels:
            what = f"got {wrong[0]}" if wrong else f"not all {stream.channels} of them"
            raise UserError(
                f"data.drop_channels are numbers from 0 to {stream.channels - 1} of {stream.name}, "
                f"{what}: task=doctor names those that dwarf the rest"
            )
        return stream._replace(channels=stream.channels - len(self.drop))

    def __call__(
        self, maps: Float[Tensor, "pictures tokens channels"]
    ) -> Float[Tensor, "pictures tokens _"]:
        """The maps of whole pictures, in the dtype that they have."""
        if self.drop:
            kept = torch.ones(maps.shape[2], dtype=torch.bool)
            kept[list(self.drop)] = False
            maps = maps[..., kept.to(maps.device)]
        if self.way == "none":
            return maps
        x = maps.float()
        if self.way == "token":
            return F.layer_norm(x, x.shape[2:], eps=SMALL).to(maps.dtype)
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return ((x - mean) / (variance + SMALL).sqrt()).to(maps.dtype)


def normalisation(way: str = "none", drop: Sequence = ()) -> Normalisation:
    """The checked choice."""
    if way not in WAYS:
        raise UserError(f"data.normalise is {', '.join(WAYS)}, got {way!r}: data.normalise=none")
    channels = list(drop)
    if len({*channels}) != len(channels) or not all(type(each) is int for each in channels):
        once = [each for each in dict.fromkeys(channels) if type(each) is int]
        raise UserError(
            f"data.drop_channels are numbers, each once, got {channels}: "
            f"{override('data.drop_channels', once)}"
        )
    return Normalisation(way, tuple(sorted(channels)))


def carded_normalisation(card: Mapping) -> Normalisation:
    """What a dictionary's card says was done to its tokens."""
    return normalisation(card.get("normalise") or "none", card.get("drop_channels") or ())
