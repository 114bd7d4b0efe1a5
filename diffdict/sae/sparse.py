"""Codes that stay sparse: chosen entries of an encoder, a decoder that reads only their rows.

Forward and backward touch entries, never tokens × latents: the one dense thing is the
pre-activations among which the entries are chosen, and they carry no gradient. A gradient of the
dictionary is the decoder's sum seen from the other side: for every latent, over its tokens.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from diffdict.sae.selection import Chosen


class Codes(NamedTuple):
    """The active latents of every token, token after token: the rows of a CSR matrix."""

    starts: Int64[Tensor, "tokens_plus_one"]  # where each token's entries begin; last: their number
    latents: Int64[Tensor, "entries"]
    values: Float[Tensor, "entries"]

    def dense(self, latents: int) -> Float[Tensor, "tokens latents"]:
        """The same codes as a matrix."""
        tokens = len(self.starts) - 1
        rows = torch.arange(tokens, device=self.starts.device).repeat_interleave(self.starts.diff())
        out = self.values.new_zeros(tokens, latents)
        return out.index_put((rows, self.latents), self.values)

    @property
    def l0(self) -> Float[Tensor, ""]:
        """Latents above zero, a token."""
        return (self.values > 0).sum() / max(1, len(self.starts) - 1)


class ByLatent(NamedTuple):
    """The same entries, latent after latent."""

    order: Int64[Tensor, "entries"]  # of the entries
    bags: Int64[Tensor, "entries"]  # the bag of each, in that order
    starts: Int64[Tensor, "latents_plus_one"]


class Entries:
    """Which latents are chosen for which bag; a bag is a token, or a token's share of a group."""

    def __init__(
        self,
        starts: Int64[Tensor, "bags_plus_one"],
        bags: Int64[Tensor, "entries"],
        chosen: Int64[Tensor, "entries"],
        latents: int,
    ) -> None:
        """`starts`: where each bag's entries begin; `bags`: the bag of every entry."""
        self.starts, self.bags, self.chosen, self.latents = starts, bags, chosen, latents

    @cached_property
    def by_latent(self) -> ByLatent:
        """Made once, in the first backward that needs it."""
        short = self.chosen.short() if self.latents <= 2**15 else self.chosen.int()  # sorts faster
        order = torch.sort(short, stable=True).indices
        counts = torch.bincount(self.chosen, minlength=self.latents)
        return ByLatent(order, self.bags[order], F.pad(counts.cumsum(0), (1, 0)))

    def regrouped(self, group: Int64[Tensor, " latents"], groups: int) -> tuple["Entries", Tensor]:
        """The entries in bags of (token, group), and where each one stood."""
        bags = self.bags * groups + group[self.chosen]
        order = torch.sort(bags.int(), stable=True).indices
        counts = torch.bincount(bags, minlength=(len(self.starts) - 1) * groups)
        starts = F.pad(counts.cumsum(0), (1, 0))
        return Entries(starts, bags[order], self.chosen[order], self.latents), order


def weighted_rows(rows: Tensor, which: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """For every bag, the weighted sum of the rows that it names."""
    return F.embedding_bag(
        which, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def products(left: Tensor, right: Tensor, entries: Entries) -> Tensor:
    """For every entry, the product of its bag's row on the left and its latent's on the right."""
    if left.device.type != "cpu":
        return (left[entries.bags] * right[entries.chosen]).sum(1)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), right, entries.chosen, entries.starts[:-1], entries.bags, 0, -1
    )


class _Decode(torch.autograd.Function):
    """Σ value · dictionary row, over the entries of each bag."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, rows: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(values, rows)
        ctx.entries = entries
        return weighted_rows(rows, entries.chosen, entries.starts, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, rows = ctx.saved_tensors
        to_values = products(grad, rows, ctx.entries) if ctx.needs_input_grad[0] else None
        to_rows = None
        if ctx.needs_input_grad[1]:
            by_latent = ctx.entries.by_latent
            to_rows = weighted_rows(
                grad.contiguous(), by_latent.bags, by_latent.starts, values[by_latent.order]
            )
        return to_values, to_rows, None


class _Encode(torch.autograd.Function):
    """Values at the entries, already computed; the gradient of (x − centre) · W + b there alone."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        centre: Tensor,
        weight: Tensor,
        bias: Tensor,
        values: Tensor,
        entries: Entries,
    ) -> Tensor:
        ctx.save_for_backward(x, centre, weight)
        ctx.entries = entries
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, centre, weight = ctx.saved_tensors
        entries, by_latent, wanted = ctx.entries, ctx.entries.by_latent, ctx.needs_input_grad
        ordered = grad[by_latent.order]
        to_bias = torch.zeros_like(weight[:, 0]).index_add_(0, entries.chosen, grad)
        to_x = to_centre = None
        if wanted[0]:
            to_x = weighted_rows(weight, entries.chosen, entries.starts, grad)
        if wanted[1]:
            to_centre = -(to_bias @ weight)
        to_weight = weighted_rows(x - centre, by_latent.bags, by_latent.starts, ordered)
        return to_x, to_centre, to_weight, to_bias, None, None


EntryChoice = Callable[[Tensor], Chosen]  # of pre-activations
PIECE = 2**22  # pre-activations at once, where tokens are chosen one by one: they stay in cache


def encode_chosen(
    x: Float[Tensor, "tokens d_in"],
    centre: Float[Tensor, " d_in"],
    weight: Float[Tensor, "latents d_in"],
    bias: Float[Tensor, " latents"],
    choose: EntryChoice,
    together: bool = False,
) -> tuple[Entries, Float[Tensor, "entries"]]:
    """Pre-activations at the entries that `choose` takes out of all; gradients to those alone.

    `together`: the choice needs all tokens at once. Under autocast the matrix product runs in its
    dtype; all else stays as it is.
    """
    kind, latents = x.device.type, len(weight)
    size = len(x) if together or kind != "cpu" else max(1, PIECE // latents)
    with torch.no_grad():
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        tokens, rows, shift = (x - centre).to(dtype), weight.to(dtype).T, bias.to(dtype)
        pieces = tokens.split(max(1, size))
        pre = tokens.new_empty(len(pieces[0]), latents)  # of every piece: fresh memory is slow
        chosen = joined([choose(torch.addmm(shift, p, rows, out=pre[: len(p)])) for p in pieces])
        entries = Entries(chosen.starts, chosen.tokens, chosen.latents, latents)
        values = chosen.values.to(weight.dtype)
    return entries, _Encode.apply(x, centre, weight, bias, values, entries)


def joined(pieces: list[Chosen]) -> Chosen:
    """The entries of pieces of a batch as those of the batch."""
    if len(pieces) == 1:
        return pieces[0]
    tokens, entries, starts = 0, 0, [pieces[0].starts[:1]]
    for piece in pieces:
        starts.append(piece.starts[1:] + entries)
        piece.tokens.add_(tokens)
        tokens, entries = tokens + len(piece.starts) - 1, entries + len(piece.latents)
    return Chosen(
        torch.cat(starts),
        torch.cat([piece.tokens for piece in pieces]),
        torch.cat([piece.latents for piece in pieces]),
        torch.cat([piece.values for piece in pieces]),
    )


def pre_activations(
    x: Float[Tensor, "tokens d_in"],
    centre: Float[Tensor, " d_in"],
    weight: Float[Tensor, "latents d_in"],
    bias: Float[Tensor, " latents"],
) -> Float[Tensor, "tokens latents"]:
    """(x − centre) · Wᵀ + b, in autocast's dtype where that is on."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return torch.addmm(bias.to(dtype), (x - centre).to(dtype), weight.to(dtype).T)


class _Nested(torch.autograd.Function):
    """Errors of running sums of groups; their gradient is a running sum from the other end."""

    @staticmethod
    def forward(ctx: FunctionCtx, sums: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        error = sums.clone()
        error[:, 0].add_(bias).sub_(x)
        for group in range(1, error.shape[1]):
            error[:, group] += error[:, group - 1]
        loss = error.square().mean()
        last = error[:, -1] + x
        for group in range(error.shape[1] - 2, -1, -1):
            error[:, group] += error[:, group + 1]
        ctx.save_for_backward(error)
        ctx.mark_non_differentiable(last)
        return loss, last

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        (error,) = ctx.saved_tensors
        to_sums = error * (2 * grad / error.numel())
        return to_sums, to_sums[:, 0].sum(0), None


def nested_error(
    sums: Float[Tensor, "tokens groups d_in"],
    bias: Float[Tensor, " d_in"],
    x: Float[Tensor, "tokens d_in"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens d_in"]]:
    """Mean squared error of all prefixes of groups against x, and the last one's reconstruction."""
    return _Nested.apply(sums, bias, x)


def decode_entries(
    values: Float[Tensor, "entries"], rows: Float[Tensor, "latents d_in"], entries: Entries
) -> Float[Tensor, "bags d_in"]:
    """The weighted sum of dictionary rows of every bag; compute and memory follow the entries."""
    return _Decode.apply(values, rows, entries)
