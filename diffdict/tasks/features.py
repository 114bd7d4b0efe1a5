"""`task=features`: what a frozen backbone sees in pictures; FeatureWriter stores it."""

import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone
from diffdict.features.locations import Blocks, Key, Timesteps
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes


class Features(pl.LightningModule):
    """Maps of every block at every timestep: one pass a timestep, which ends at the last block."""

    def __init__(
        self,
        net: Backbone,
        timestep: Timesteps,
        block: Blocks,
        noise: Noise,
        compute: str = "fp32",
    ) -> None:
        """`block` may be "all"; a network without timesteps is asked for none."""
        super().__init__()
        self.passes = Passes(net, timestep, block, noise, compute)
        self.net = self.passes.net

    def predict_step(
        self, batch: dict, batch_idx: int = 0
    ) -> dict[Key, Float[Tensor, "batch _ _ _"]]:
        """The maps by (timestep, block); only those that the batch says are wanted, if it does."""
        wanted, names = batch.get("wanted"), batch.get("name")
        return self.passes.maps(batch["image"], batch["index"].tolist(), wanted, names)
