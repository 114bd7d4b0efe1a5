"""Pictures that the network in training draws, from the same start noise every time."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict import files
from diffdict.backbones.denoiser import Denoiser, Given
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import noiseless, own_noise
from diffdict.reports.drawing.contact_sheet import contact_sheet


class SampleGrid(pl.Callback):
    """Every n steps a sheet of samples of the average network: to `samples/` and the logger."""

    def __init__(
        self, every_n_steps: int = 1000, pictures: int = 16, steps: int = 25, seed: int = 0
    ) -> None:
        """`steps`: how many timesteps DDIM visits, or Heun's sampler along noise levels."""
        self.every_n_steps, self.pictures = every_n_steps, pictures
        self.steps, self.seed, self.drawn = steps, seed, 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """One sheet for each multiple of `every_n_steps`, by the first rank."""
        step = trainer.global_step
        if step % self.every_n_steps or step == self.drawn or not trainer.is_global_zero:
            return
        self.drawn = step
        with trainer.precision_plugin.forward_context():
            sheet = self.sheet(trainer, pl_module)
        path = files.writable_folder(Path(trainer.default_root_dir) / "samples")
        path = path / f"step_{step:07d}.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        for logger in trainer.loggers:
            log_sheet(logger, sheet, step)

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


def log_sheet(
    logger: pl.loggers.Logger, sheet: Image.Image, step: int, name: str = "samples"
) -> None:
    """The sheet in loggers that show pictures; others do without."""
    if isinstance(logger, pl.loggers.WandbLogger):
        logger.log_image(name, [sheet], step=step)
    elif isinstance(logger, pl.loggers.TensorBoardLogger):
        pixels = torch.tensor(list(sheet.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(sheet.height, sheet.width, 3)
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
