"""`task=features`: what a frozen backbone sees in pictures; FeatureWriter stores it."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.errors import UserError
from diffdict.features.noise import Noise, noised_features

COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Features(pl.LightningModule):
    """Maps of every block at every timestep: one pass a timestep, which ends at the last block."""

    def __init__(
        self,
        net: Backbone,
        timestep: int | Sequence[int] | None,
        block: Block | Sequence[Block],
        noise: Noise,
        compute: str = "fp32",
    ) -> None:
        """`block` may be "all"; a network without timesteps is asked for none."""
        super().__init__()
        if compute not in COMPUTE:
            raise UserError(f"compute is one of {', '.join(COMPUTE)}, got {compute}")
        if noise.draws < 1:
            raise UserError(f"Features are averaged over noise.draws ≥ 1, got {noise.draws}")
        # channel-last maps are tokens as they lie: nothing to transpose, and the passes are faster
        self.net = net.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.noise, self.compute = noise, compute
        self.timesteps = _each(timestep) if net.num_timesteps is not None else [None]
        self.blocks = net.chosen(block)
        for step in self.timesteps:
            net.check_timestep(step)

    @property
    def streams(self) -> list[tuple[int | None, Block]]:
        """What is predicted, in timestep-then-block order."""
        return [(step, block) for step in self.timesteps for block in self.blocks]

    def predict_step(
        self, batch: dict, batch_idx: int = 0
    ) -> dict[tuple[int | None, Block], Float[Tensor, "batch _ _ _"]]:
        """The maps by (timestep, block); only those that the batch says are wanted, if it does."""
        wanted = batch.get("wanted", self.streams)
        indices, maps = batch["index"].tolist(), {}
        half = self.compute != "fp32"
        with torch.autocast(self.device.type, COMPUTE[self.compute], enabled=half):
            for step in self.timesteps:
                blocks = [block for block in self.blocks if (step, block) in wanted]
                if not blocks:
                    continue
                seen = noised_features(self.net, batch["image"], indices, step, blocks, self.noise)
                maps |= {(step, block): x for block, x in seen.items()}
        return maps


def _each(timestep: int | Sequence[int] | None) -> list[int | None]:
    """One or several, each once, in the order given."""
    single = timestep is None or isinstance(timestep, int)
    return list(dict.fromkeys([timestep] if single else timestep))
