"""Where in a network features come from, in the words of a config: its timesteps and blocks."""

from collections.abc import Sequence

from diffdict.backbones.base import Block
from diffdict.errors import UserError, override

Timesteps = int | Sequence[int] | None  # None: of a network without; of a store all that it has
Blocks = Block | Sequence[Block] | None  # None: the usual ones; "all": every block
Key = tuple[int | None, Block]  # a timestep, and a block


def listed(value: Timesteps | Blocks) -> list | None:
    """One or several things asked for, each once; None stays None."""
    if value is None:
        return None
    each = [value] if isinstance(value, (int, str)) else list(dict.fromkeys(value))
    if not each:
        raise UserError("timestep= and block= ask for one or several, got none: []")
    return each


def in_order(block: Blocks) -> list[Block] | None:
    """The blocks ascending; None for all of them."""
    blocks = listed(block)
    if blocks is None or blocks == ["all"]:
        return None
    return sorted(blocks, key=lambda name: (isinstance(name, str), name))


def place(timestep: Timesteps, block: Blocks) -> str:
    """For a sentence: timestep 50, 150, block 6."""
    at = "" if timestep is None else f"timestep {in_words(timestep)}, "
    return f"{at}block {in_words(block)}"


def where(timestep: Timesteps, block: Blocks) -> list[str]:
    """For a command line: timestep=50 block=[5,6]."""
    options = {"timestep": listed(timestep), "block": listed(block)}
    return [
        override(key, each[0] if len(each) == 1 else each)
        for key, each in options.items()
        if each is not None
    ]


def in_words(value: Timesteps | Blocks) -> str:
    """For people: 5, 6."""
    return ", ".join(map(str, listed(value) or ["all"]))
