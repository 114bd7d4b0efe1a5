"""A backbone's passes over pictures: at which timesteps, to which blocks, under which noise."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.errors import UserError
from diffdict.features.noise import Noise, noised_features
from diffdict.features.shards import TORCH

Timesteps = int | Sequence[int] | None  # None: of a network without; of a store all that it has
Blocks = Block | Sequence[Block] | None  # None: the usual ones; "all": every block
Key = tuple[int | None, Block]  # a timestep, and a block
COMPUTE = ("fp32", "bf16", "fp16")


class Passes:
    """A frozen network and all that is asked of it: a pass a timestep, to the last block."""

    def __init__(
        self,
        net: Backbone,
        timestep: Timesteps,
        block: Blocks,
        noise: Noise = Noise(),  # noqa: B008 - immutable
        compute: str = "fp32",
    ) -> None:
        """`compute` is the precision of the network's matrix products."""
        if compute not in COMPUTE:
            raise UserError(f"compute is one of {', '.join(COMPUTE)}, got {compute}")
        if noise.draws < 1:
            raise UserError(f"Features are averaged over noise.draws ≥ 1, got {noise.draws}")
        # channel-last maps are tokens as they lie: nothing to transpose, and the passes are faster
        self.net = net.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.noise, self.compute = noise, compute
        timed = net.num_timesteps is not None and timestep is not None
        self.timesteps: list[int | None] = listed(timestep) if timed else [None]
        for each in self.timesteps:
            net.check_timestep(each)
        self.blocks = net.chosen(block)

    @property
    def keys(self) -> list[Key]:
        """Every timestep with every block, in timestep-then-block order."""
        return [(timestep, block) for timestep in self.timesteps for block in self.blocks]

    @torch.no_grad()
    def maps(
        self,
        images: Float[Tensor, "batch 3 height width"],
        indices: Sequence[int],
        wanted: Sequence[Key] | None = None,
    ) -> dict[Key, Float[Tensor, "batch _ _ _"]]:
        """The maps of these pictures in that order, all or those wanted.

        `indices` are the pictures' numbers, for which their noise is drawn.
        """
        wanted, maps = self.keys if wanted is None else wanted, {}
        half = self.compute != "fp32"
        with torch.autocast(images.device.type, TORCH[self.compute], enabled=half):
            for timestep in self.timesteps:
                blocks = [block for block in self.blocks if (timestep, block) in wanted]
                if blocks:
                    seen = noised_features(self.net, images, indices, timestep, blocks, self.noise)
                    maps |= {(timestep, block): x for block, x in seen.items()}
        return maps


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
    at = "" if timestep is None else f"timestep {spoken(timestep)}, "
    return f"{at}block {spoken(block)}"


def extraction(dataset: str, backbone: str, timestep: Timesteps, block: Blocks) -> str:
    """The command that makes these features."""
    typed = f"block={_typed(block)}"
    if timestep is None:
        typed += f" backbone={backbone}"  # no dataset brings a network without timesteps
    else:
        typed = f"timestep={_typed(timestep)} {typed}"
    return f"python extract.py dataset={dataset} {typed}"


def spoken(value: Timesteps | Blocks) -> str:
    """For people: 5, 6."""
    return ", ".join(map(str, listed(value) or ["all"]))


def _typed(value: Timesteps | Blocks) -> str:
    """For a command line: [5,6]."""
    names = ",".join(map(str, listed(value) or ["all"]))
    return f"[{names}]" if "," in names else names
