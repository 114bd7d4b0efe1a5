"""Where in a layer a block's map is: what it hands on, is given or adds, or what it attends to."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn

from diffdict.backbones.base import Block
from diffdict.backbones.hub.attention import AttentionReader, mean_map
from diffdict.backbones.hub.families.family import Family
from diffdict.errors import UserError

TAPS = ("output", "input", "residual", "modulated", "attention")
CROSS = "cross"  # BLOCK.cross.WORD: how a block attends to a word; cross.WORD: how all of them do
Visit = Callable[[Tensor], Tensor | None]  # a block's map → its new one, or None: as it is


class Enough(Exception):
    """Ends a pass after the last block asked for."""


class Tap:
    """Visits the map of one block while a pass runs.

    Attention is that to each token of the text, or to `tokens` together.
    """

    def __init__(
        self, module: nn.Module, word: str, family: Family, tokens: Sequence[int] | None = None
    ) -> None:
        self.module, self.word, self.family, self.tokens = module, word, family, tokens

    @property
    def attends(self) -> bool:
        """Whether it looks at attention, which can be seen and not edited."""
        return self.word == "attention"

    @property
    def layers(self) -> list[nn.Module]:
        """The module's layers that read the text."""
        every = self.module.named_modules()
        return [layer for name, layer in every if name.split(".")[-1] == self.family.cross]

    def watch(self, size: Sequence[int], visit: Visit) -> object:
        """A hook on the block, for x_t of this size; to be removed after the pass."""
        if self.word in ("input", "modulated"):
            inner = self.family.modulated if self.word == "modulated" else ""
            hook = partial(self._given, size, visit)
            return self.module.get_submodule(inner).register_forward_pre_hook(
                hook, with_kwargs=True
            )
        hook = partial(self._handed_on, size, visit)
        return self.module.register_forward_hook(hook, with_kwargs=True)

    def read(self, reader: AttentionReader, visit: Visit) -> None:
        """Visits the mean over its layers, once the last of them has run."""
        layers, maps = self.layers, []

        def gather(shares: Tensor) -> None:
            tokens = self.tokens
            maps.append(shares if tokens is None else shares[:, tokens].sum(1, keepdim=True))
            if len(maps) == len(layers):
                visit(mean_map(maps))

        for layer in layers:
            reader.watch(layer, gather)

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
        picture_map = self.family.as_map(tokens, size)
        changed = visit(picture_map)
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


def check_taps(word: str, words: Sequence[str], family: Family) -> None:
    """A word of `TAPS`, and attention only where there is some to a text."""
    if word not in TAPS:
        raise UserError(f"backbone.taps is one of {', '.join(TAPS)}, got {word!r}")
    if word == "modulated" and not family.modulated:
        raise UserError(
            "backbone.taps=modulated is a block's input as the timestep has scaled and shifted it, "
            f"and a {family.kind} has no such blocks: backbone.taps=output"
        )
    for key, needs_text in (("taps=attention", word == "attention"), ("words", bool(words))):
        if needs_text and not family.cross:
            raise UserError(
                f"backbone.{key} shows how pictures attend to a text, and a {family.kind} has no "
                "layers of cross-attention: backbone.taps=output, and no backbone.words"
            )


def taps_of(
    network: nn.Module, family: Family, word: str, words: Mapping[str, Sequence[int]]
) -> dict[Block, Tap]:
    """Every block's tap, and those of words' tokens: a block's own, and the whole network's."""
    taps: dict[Block, Tap] = {}
    blocks = family.blocks(network)
    for block, module in {**blocks, "": network}.items():
        if block in blocks:
            taps[block] = Tap(module, word, family)
        for name, tokens in words.items():
            tap = Tap(module, "attention", family, tokens)
            if tap.layers:
                taps[f"{block}.{CROSS}.{name}".lstrip(".")] = tap
    return taps


def caught_maps(
    network: nn.Module, arguments: dict, taps: Mapping[Block, Tap], size: Sequence[int]
) -> dict[Block, Tensor]:
    """The maps of these taps, in the order in which the network makes them; ends with the last."""
    maps: dict[Block, Tensor] = {}

    def keep(block: Block, x: Tensor) -> None:
        maps[block] = x
        if len(maps) == len(taps):
            raise Enough

    reads = [tap for tap in taps.values() if tap.attends]
    reader = AttentionReader(reads[0].family, size) if reads else None
    for block, tap in taps.items():
        if tap.attends:
            tap.read(reader, partial(keep, block))
    with hooked({block: tap for block, tap in taps.items() if not tap.attends}, size, keep):
        try:
            with reader or nullcontext():
                network(**arguments)
        except Enough:
            pass
    return maps


@contextmanager
def hooked(
    taps: Mapping[Block, Tap], size: Sequence[int], visit: Callable[[Block, Tensor], Tensor | None]
) -> Iterator[None]:
    """Passes within visit the taps' maps."""
    hooks = []
    try:
        for block, tap in taps.items():
            hooks.append(tap.watch(size, partial(visit, block)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tree(blocks: Mapping[Block, object]) -> str:
    """The names of blocks in a line, those inside others in brackets behind them."""
    names = [str(block) for block in blocks]
    tops = [name for name in names if not any(name.startswith(f"{top}.") for top in names)]
    parts = []
    for top in tops:
        inside = [name.removeprefix(f"{top}.") for name in names if name.startswith(f"{top}.")]
        parts.append(f"{top} ({', '.join(inside)})" if inside else top)
    return ", ".join(parts)


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
