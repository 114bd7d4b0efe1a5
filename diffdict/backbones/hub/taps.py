"""Where in a layer a block's map is: what it hands on, is given, adds, or attends to of a text."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from diffdict.backbones.base import Block
from diffdict.backbones.hub.families.family import Family
from diffdict.errors import UserError

TAPS = ("output", "input", "residual", "attention")
Visit = Callable[[Tensor], Tensor | None]  # a block's map → its new one, or None: as it is


class Enough(Exception):
    """Ends a pass after the last block asked for."""


class Tap:
    """Visits the maps of a family's blocks while a pass runs."""

    def __init__(self, word: str, family: Family) -> None:
        if word not in TAPS:
            raise UserError(f"backbone.taps is one of {', '.join(TAPS)}, got {word!r}")
        if word == "attention" and not family.cross:
            raise UserError(
                f"backbone.taps=attention shows how pictures attend to a text, and a {family.kind} "
                "has no layers of cross-attention: backbone.taps=output"
            )
        self.word, self.family = word, family

    def watch(self, module: nn.Module, size: Sequence[int], visit: Visit) -> list:
        """Hooks on a block, for x_t of this size; to be removed after the pass."""
        if self.word == "input":
            hook = partial(self._given, size, visit)
            return [module.register_forward_pre_hook(hook, with_kwargs=True)]
        if self.word == "attention":
            return self._attended(module, size, visit)
        hook = partial(self._handed_on, size, visit)
        return [module.register_forward_hook(hook, with_kwargs=True)]

    def _handed_on(
        self,
        size: Sequence[int],
        visit: Visit,
        module: nn.Module,
        args: tuple,
        kwargs: dict,
        output: Tensor | tuple,
    ) -> Tensor | tuple | None:
        """Of `output` what comes out, of `residual` the difference that the layer made."""
        place = None if isinstance(output, Tensor) else picture_stream(output)
        x = output if place is None else output[place]
        before = _input(args, kwargs) if self.word == "residual" else None
        if before is not None and before.shape != x.shape:
            return None  # it changes the shape: there is nothing that it adds
        tokens = x if before is None else x - before
        seen = self.family.as_map(tokens, size)
        changed = visit(seen)
        if changed is None:
            return None
        new = self.family.as_tokens(changed, tokens)
        new = new if before is None else x + (new - tokens)
        return new if place is None else (*output[:place], new, *output[place + 1 :])

    def _given(
        self, size: Sequence[int], visit: Visit, module: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        """What a layer is given of the picture."""
        x = _input(args, kwargs)
        changed = visit(self.family.as_map(x, size))
        if changed is None:
            return None
        new = self.family.as_tokens(changed, x)
        if args:
            return (new, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": new}

    def _attended(self, module: nn.Module, size: Sequence[int], visit: Visit) -> list:
        """Shares of attention by token of the text, the mean over heads and a block's layers."""
        shares: list[Tensor] = []
        ends = self.family.cross
        layers = [layer for name, layer in module.named_modules() if name.split(".")[-1] == ends]
        if not layers:
            return []

        def attend(layer: nn.Module, args: tuple, kwargs: dict) -> None:
            shares.append(self.family.as_map(attention(layer, args, kwargs), size))

        def finish(*_: object) -> None:
            mean = sum(shares[1:], shares[0]) / len(shares)
            shares.clear()
            visit(mean)

        hooks = [layer.register_forward_pre_hook(attend, with_kwargs=True) for layer in layers]
        return [*hooks, module.register_forward_hook(finish)]


def attention(layer: nn.Module, args: tuple, kwargs: dict) -> Tensor:
    """[batch, places, tokens of the text]: softmax of queries and keys, the mean over heads."""
    x, text = _input(args, kwargs), kwargs["encoder_hidden_states"]
    mask = kwargs.get("attention_mask")
    query, key = layer.to_q(x), layer.to_k(text)
    if mask is not None:
        mask = layer.prepare_attention_mask(mask, text.shape[1], len(x))
        mask = mask.expand(-1, x.shape[1], -1)
    scores = layer.get_attention_scores(
        layer.head_to_batch_dim(query).contiguous(), layer.head_to_batch_dim(key).contiguous(), mask
    )
    return scores.unflatten(0, (len(x), -1)).mean(1)


def caught_maps(
    network: nn.Module,
    arguments: dict,
    modules: dict[Block, nn.Module],
    tap: Tap,
    size: Sequence[int],
    last: Block | None = None,
) -> dict[Block, Tensor]:
    """The maps of these blocks, caught as the network makes them; ends with `last`."""
    maps: dict[Block, Tensor] = {}

    def keep(block: Block, x: Tensor) -> None:
        maps[block] = x
        if block == last:
            raise Enough

    hooks = []
    for block, module in modules.items():
        hooks += tap.watch(module, size, partial(keep, block))
    try:
        network(**arguments)
    except Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def _input(args: tuple, kwargs: dict) -> Tensor:
    """The picture's stream as a layer is given it."""
    return args[0] if args else kwargs["hidden_states"]


def picture_stream(output: tuple) -> int:
    """Where the picture stands in what a layer hands on.

    Blocks of two streams (SD3's and Flux's) answer (text, picture), both [batch, tokens, width],
    the text None in the last one; a U-Net's layers answer the map, then what belongs to it.
    """
    two = len(output) == 2 and isinstance(output[1], Tensor) and output[1].ndim == 3
    return 1 if two and (output[0] is None or output[0].ndim == 3) else 0
