"""A backbone's passes over pictures: at which timesteps, to which blocks, under which noise."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.errors import UserError
from diffdict.features.locations import Blocks, Key, Timesteps, listed
from diffdict.features.noise import Noise, noised_features
from diffdict.features.store.shards import TORCH

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
        images: Float[Tensor, "batch _ height width"],
        indices: Sequence[int],
        wanted: Sequence[Key] | None = None,
        names: Sequence[str] | None = None,
    ) -> dict[Key, Float[Tensor, "batch _ _ _"]]:
        """The maps of these pictures in that order, all or those wanted.

        `indices` are the pictures' numbers, for which their noise is drawn; `names` those that a
        network knows captions by.
        """
        wanted, maps = self.keys if wanted is None else wanted, {}
        with self._precision(images), self.net.of_pictures(names):
            images = self.net.prepared(images)
            for timestep in self.timesteps:
                blocks = [block for block in self.blocks if (timestep, block) in wanted]
                if blocks:
                    features = noised_features(
                        self.net, images, indices, timestep, blocks, self.noise
                    )
                    maps |= {(timestep, block): x for block, x in features.items()}
        return maps

    @torch.no_grad()
    def own_maps(
        self,
        images: Float[Tensor, "batch _ height width"],
        indices: Sequence[int],
        timesteps: Int[Tensor, " batch"],
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """The blocks' maps of these pictures, each at its own timestep."""
        with self._precision(images):
            return noised_features(self.net, images, indices, timesteps, self.blocks, self.noise)

    def _precision(self, images: Tensor) -> torch.autocast:
        """Where the network's matrix products are computed as asked."""
        half = self.compute != "fp32"
        return torch.autocast(images.device.type, TORCH[self.compute], enabled=half)
