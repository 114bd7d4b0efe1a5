"""Attention to a text: shares of its tokens, as a network's own layers give them at each place."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffdict.backbones.hub.families.family import Family
from diffdict.errors import UserError

Shares = Callable[[Tensor], None]  # is handed a layer's shares, [batch, tokens, height, width]


class AttentionReader(TorchFunctionMode):
    """While a pass runs: what watched layers ask of their keys. It changes no number of the pass.

    Queries and keys are those of the network's own call, after its norms and rotations.
    """

    def __init__(self, family: Family, size: Sequence[int]) -> None:
        super().__init__()
        self.family, self.size = family, size
        self.visits: dict[nn.Module, list[Shares]] = {}
        self.hooks: list = []
        self.asked: tuple[Tensor, Tensor, Tensor | None, float | None] | None = None

    def watch(self, layer: nn.Module, visit: Shares) -> None:
        """Visits a layer's shares whenever it runs; they are computed once for all visits."""
        if layer not in self.visits:
            self.hooks += [
                layer.register_forward_pre_hook(self._forget),
                layer.register_forward_hook(self._read),
            ]
        self.visits.setdefault(layer, []).append(visit)

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """Keeps what attention is computed of, and computes it as ever."""
        if func is F.scaled_dot_product_attention:
            self.asked = _arguments(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)

    def _forget(self, *_: object) -> None:
        self.asked = None

    def _read(self, layer: nn.Module, *_: object) -> None:
        if self.asked is None:
            raise UserError(
                f"A {self.family.kind} computes attention by a kernel that does not show its "
                "queries: leave DIFFUSERS_ATTN_BACKEND unset, or backbone.taps=output"
            )
        query, key, mask, scale = self.asked
        self.asked = None
        height, width = self.family.grid(query.shape[2], self.size)
        places, text = self.family.attends(key.shape[2], height * width)
        shares = text_shares(query, key, places, text, mask, scale).mT
        for visit in self.visits[layer]:
            visit(shares.unflatten(2, (height, width)))


def text_shares(
    query: Tensor,
    key: Tensor,
    places: slice,
    text: slice,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """[batch, places, tokens of the text]: softmax over all keys, the mean over heads.

    One head after the other: the picture's queries by all keys are the largest table of a pass.
    """
    batch, heads, queries, width = query.shape
    if mask is not None:
        mask = mask.expand(batch, heads, queries, key.shape[2])
    shares = 0
    for head in range(heads):
        scores = query[:, head, places].float() @ key[:, head].float().mT
        scores = scores * (1 / math.sqrt(width) if scale is None else scale)
        if mask is not None:
            head_mask = mask[:, head, places]
            hidden = head_mask.dtype == torch.bool
            scores = scores.masked_fill(~head_mask, -math.inf) if hidden else scores + head_mask
        shares = shares + scores.softmax(-1)[..., text]
    return shares / heads


def mean_map(maps: Sequence[Tensor]) -> Tensor:
    """The mean of layers' maps on the finest of their grids."""
    finest = max(tuple(x.shape[2:]) for x in maps)
    fine = [x if x.shape[2:] == finest else F.interpolate(x, finest, mode="bilinear") for x in maps]
    return sum(fine[1:], fine[0]) / len(fine)


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, float | None]:
    """What of torch's attention says where it looks."""
    return query, key, attn_mask, scale
