"""Pictures that the network in training draws, from the same start noise every time."""

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.denoiser import Denoiser, Given
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import noiseless, own_noise
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.samples.training_sheet import TrainingSheet


class SampleGrid(TrainingSheet):
    """Samples; `steps` of DDIM, or of Heun's sampler along noise levels."""

    def sheet(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Image.Image:
        """Samples of the average network."""
        return contact_sheet(self.draw(pl_module.ema, pl_module.objective, pl_module.device))

    def draw(
        self,
        net: Denoiser,
        objective: Objective,
        device: torch.device,
        vector: Float[Tensor, "pictures width"] | None = None,
    ) -> Float[Tensor, "pictures 3 size size"]:
        """The samples; a class-conditional network draws its first classes in turn."""
        shape, indices = (3, net.image_size, net.image_size), range(self.pictures)
        noise = own_noise(self.seed, indices, shape)(net.process.steps).to(device)
        classes = net.condition.classes
        labels = None if classes is None else torch.arange(self.pictures, device=device) % classes
        given = Given(label=labels, vector=vector)
        sampler = noiseless(net.process, self.steps)
        return sampler(
            lambda x, t: net(x, t, given),
            net.process.start(noise),
            net.process,
            objective=objective,
        ).x
