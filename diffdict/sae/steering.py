"""Changes the codes of some latents in a network's map while it draws: an edit of one block.

The map becomes x + Δcode · W_dec in raw units. What the dictionary does not explain stays as it
is: a reconstruction never enters the map, and where no code changes no bit does.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.sae.base import Sae

HOW = ("scale", "clamp", "add")
ROUNDING = 1e-4  # by which a product over some latents may differ from that over all
FIRST = 12  # times k: so many others are asked first
TILE = 2**24  # pre-activations at once: tokens × latents never exists whole


class CodeChanges(NamedTuple):
    """Where codes change, and by how much: some tokens, and all latents that are steered."""

    tokens: Int64[Tensor, " changed"]
    codes: Float[Tensor, "changed chosen"]


class Steering:
    """An edit for `Denoiser.forward`: called with (map, timesteps), returns the map to go on with.

    `scale`: codes × amount (0 ablates, 1 changes nothing). `clamp`: codes become amount × unit.
    `add`: amount × unit of each row, at every token; needs no codes.
    """

    def __init__(
        self,
        sae: Sae,
        latents: Sequence,
        how: str = "scale",
        amount: float | int = -2.0,
        *,
        unit: Tensor | Sequence | float | None = None,
        where: Tensor | None = None,
        window: Sequence | None = None,
        parts: Mapping[int, slice] | None = None,
    ) -> None:
        """`unit`: the mean of each latent's code where it is active; None: 1.

        `where`: a mask of the map's or the picture's size, or one a picture; None: everywhere.
        `window`: [from, to) in the network's timesteps; None: all.
        `parts`: of a dictionary of concatenated maps, which part of a row is this block's at which
        timestep; the nearest one is taken. Such a dictionary serves `add` alone.
        """
        if how not in HOW:
            raise UserError(f"how is {', '.join(HOW[:2])} or {HOW[2]}, got {how!r}: how=scale")
        if not math.isfinite(amount):
            raise UserError(f"amount is a finite number, got {amount}: amount=-2")
        if parts is not None and how != "add":
            raise UserError(
                f"how={how} needs codes, and a dictionary of concatenated maps cannot encode a "
                "single pass: how=add, or a dictionary of data.mix=stack"
            )
        self.sae, self.how, self.amount, self.parts = sae, how, float(amount), parts
        self.latents = check_latents(latents, sae.latents)
        self.index = torch.tensor(self.latents, dtype=torch.int64, device=sae.W_dec.device)
        self.rivals = rivals_of(sae)
        self.unit = _units(unit, self.index, sae.W_dec.dtype)
        self.where = None if where is None else check_mask(where)
        self.window = None if window is None else check_window(window)

    @no_type_check
    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The map after the edit, in its dtype and layout; the very map where nothing changes."""
        t = torch.as_tensor(t, device=x.device)
        inside = self._inside(t, len(x))
        if not self.latents or (self.how == "scale" and self.amount == 1) or not inside.any():
            return x
        if self.parts is None and x.shape[1] != self.sae.d_in:
            raise UserError(
                f"The dictionary takes tokens of width {self.sae.d_in}, the block to be steered "
                f"has {x.shape[1]} channels: choose the block that it was learned on"
            )
        with torch.autocast(x.device.type, enabled=False):
            weights = self._weights(x, inside)
            places = self._able(x, weights).nonzero()[:, 0]
            if not len(places):
                return x
            edited = x.clone()  # its layout too
            tokens = edited.permute(0, 2, 3, 1)
            for some in places.split(max(1, TILE // self.sae.latents)):
                at = torch.unravel_index(some, tokens.shape[:3])
                indices, change = self._change(tokens[at], t.expand(len(x))[at[0]])
                at = tuple(axis[indices] for axis in at)
                change = change * weights[some[indices], None]
                before = tokens[at]
                moved = (before.to(change.dtype) + change).to(x.dtype)
                still = (change == 0).all(1, keepdim=True)
                tokens[at] = torch.where(still, before, moved)
        return edited

    def _able(self, x: Tensor, weights: Float[Tensor, " tokens"]) -> Tensor:
        """Tokens that the edit reaches, without those at which surely no steered latent is active.

        Of latents that compete, the steered ones and the most frequent others are asked of the map
        as it lies, scale and centre taken into weights and offsets; a margin covers rounding.
        """
        inside, sae = weights != 0, self.sae
        if sae.ranked is None or self.how != "scale":
            return inside
        latents = torch.cat([self.index, self.rivals[0]]) if self.rivals else self.index
        rows = sae.W_enc[latents].float() * sae.token_scale
        offset = sae.b_enc[latents].float() - rows @ (sae.mean + sae.input_centre / sae.token_scale)
        pre = torch.baddbmm(
            offset[None, :, None], rows.expand(len(x), -1, -1), x.float().flatten(2)
        )
        targets, others = pre.split([len(self.index), len(latents) - len(self.index)], 1)
        margin = ROUNDING * (targets.abs().amax() + offset.abs().amax())
        largest = targets.amax(1)
        able = largest > -margin
        if self.rivals:
            able &= number_above(others, largest[:, None] + margin, 1) < sae.ranked
        return inside & able.flatten()

    def _change(self, tokens: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these tokens change, and what is added to each, in raw units."""
        if self.how == "add":
            return torch.arange(len(tokens), device=tokens.device), self._rows(t, len(tokens))
        at, codes = self.code_changes(tokens)
        rows = self.sae.dictionary[self.index]
        return at, codes.to(rows.dtype) @ rows / self.sae.token_scale

    def code_changes(self, tokens: Float[Tensor, "tokens d_in"]) -> CodeChanges:
        """By how much the codes of raw tokens change; a token that is not named does not."""
        if self.how == "scale":
            at, codes = self.active_codes(tokens)
            return CodeChanges(at, codes * (self.amount - 1))
        at, codes = self.active_codes(tokens)
        change = (self.amount * self.unit).expand(len(tokens), -1).clone()
        change[at] -= codes
        return CodeChanges(torch.arange(len(tokens), device=tokens.device), change)

    def active_codes(self, tokens: Float[Tensor, "tokens d_in"]) -> CodeChanges:
        """The steered latents' codes at inference, of the tokens at which any is active.

        Where latents compete, tokens are looked at whole only where fewer than k others exceed the
        largest of the steered latents: these are counted, the most frequent first.
        """
        sae, index = self.sae, self.index
        pre = sae.pre(tokens, index).to(sae.W_dec.dtype)
        if sae.ranked is None:
            codes = sae.activate(pre, index)
            at = codes.ne(0).any(1).nonzero()[:, 0]
            return CodeChanges(at, codes[at])
        largest = pre.amax(1)
        at, above = (largest > 0).nonzero()[:, 0], torch.zeros(len(tokens), device=tokens.device)
        for some in self.rivals:
            bound = largest[at, None] * (1 + ROUNDING)
            above[at] += number_above(sae.pre(tokens[at], some).to(bound.dtype), bound, 1)
            at = at[above[at] < sae.ranked]
        return CodeChanges(at, sae.activate(sae.pre(tokens[at]).to(sae.W_dec.dtype))[:, index])

    def _rows(self, t: Tensor, number: int) -> Tensor:
        """What `add` adds to each of these tokens: rows, or their parts of the nearest timestep."""
        step = self.amount * (self.unit @ self.sae.dictionary[self.index]) / self.sae.token_scale
        if self.parts is None:
            return step.expand(number, -1)
        timesteps = torch.tensor(list(self.parts), dtype=torch.float64, device=t.device)
        nearest = (t.double()[:, None] - timesteps).abs().argmin(1)
        stacked = torch.stack([step[part] for part in self.parts.values()])
        return stacked[nearest.expand(number)]

    def _inside(self, t: Tensor, pictures: int) -> Bool[Tensor, " pictures"]:
        """The pictures whose timestep lies in the window."""
        if self.window is None:
            return torch.ones(pictures, dtype=torch.bool, device=t.device)
        return ((t >= self.window[0]) & (t < self.window[1])).expand(pictures)

    def _weights(self, x: Tensor, inside: Tensor) -> Float[Tensor, " tokens"]:
        """How much of the edit each token gets: its share of the mask, 0 out of the window."""
        size = (len(x), *x.shape[2:])
        if self.where is None:
            weights = torch.ones(size, device=x.device)
        else:
            weights = mask_shares(self.where.to(x.device), size)
        return (weights * inside.to(x.device)[:, None, None]).flatten()


def check_latents(latents: Sequence, number: int) -> list[int]:
    """The numbers, where each is a latent and none stands twice."""
    for latent in latents:
        if isinstance(latent, bool) or not isinstance(latent, int):
            raise UserError(f"A latent is a whole number, got {latent!r}: latents=[3,14]")
        if not 0 <= latent < number:
            raise UserError(f"The dictionary has the latents 0 to {number - 1}, got {latent}")
    if twice := [latent for latent in latents if list(latents).count(latent) > 1]:
        raise UserError(f"latents name {twice[0]} twice: each once, latents=[3,14]")
    return list(latents)


def check_window(window: Sequence) -> tuple[float | int, float | int]:
    """[from, to) that holds something."""
    numbers = len(window) == 2 and all(isinstance(end, int | float) for end in window)
    if not numbers or not window[0] < window[1]:
        raise UserError(
            f"A window is [from, to) in timesteps, and rises, got {list(window)}: window=[200,500]"
        )
    return tuple(window)


def check_mask(where: Tensor) -> Float[Tensor, "pictures height width"]:
    """One mask, or one a picture, of shares from 0 to 1 that are not all 0."""
    mask = where.float()
    if mask.ndim not in (2, 3) or not mask.numel():
        raise UserError(
            f"where is a mask [height, width], or one a picture, got {list(where.shape)}"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise UserError("where holds 0 and 1, or shares between them: what came holds other values")
    if not bool(mask.any()):
        raise UserError("where is empty: nothing would be steered; leave it out for everywhere")
    return mask if mask.ndim == 3 else mask[None]


def mask_shares(mask: Tensor, size: tuple[int, int, int]) -> Float[Tensor, "pictures height width"]:
    """The mask at a map's size: of every token's cell the share that lies inside."""
    pictures, height, width = size
    times = mask.shape[1] // height
    if mask.shape[1:] != (height * times, width * times) or len(mask) not in (1, pictures):
        raise UserError(
            f"where is of the map's size ({height}×{width}) or the picture's, one or one a picture "
            f"({pictures}), got {' × '.join(map(str, mask.shape))}: resize it"
        )
    shares = torch.nn.functional.avg_pool2d(mask[:, None], times)[:, 0]
    return shares.expand(pictures, -1, -1)


def number_above(values: Tensor, bound: Tensor, dim: int) -> Tensor:
    """How many of the values exceed the bound, at least: those that equal it count half."""
    return (values.shape[dim] + (values - bound).sign_().sum(dim)).div(2).floor()


def rivals_of(sae: Sae) -> list[Int64[Tensor, " some"]]:
    """All latents where they compete, the most frequent first, in parts that double."""
    if sae.ranked is None or sae.ranked >= sae.latents:
        return []
    order, ends = sae.frequency.argsort(descending=True, stable=True), [FIRST * sae.ranked]
    while ends[-1] < sae.latents:
        ends.append(2 * ends[-1])
    return list(order.tensor_split(ends[:-1]))


def _units(unit: object, index: Tensor, dtype: torch.dtype) -> Float[Tensor, " chosen"]:
    """One number a latent."""
    units = torch.as_tensor(1.0 if unit is None else unit, dtype=dtype, device=index.device)
    if units.ndim > 1 or (units.ndim == 1 and len(units) != len(index)):
        raise UserError(
            f"unit is a number, or one a latent ({len(index)}), got {list(units.shape)}"
        )
    if not bool(units.isfinite().all()):
        raise UserError("unit is a latent's mean activation, what came is no number")
    return units.expand(len(index))
