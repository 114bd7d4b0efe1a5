"""Pictures that the network in training draws, from the same start noise every time."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from diffdict import files
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, own_noise
from diffdict.reports.drawing.sheet import contact_sheet


class SampleGrid(pl.Callback):
    """Every n steps a sheet of samples of the average network: to `samples/` and the logger."""

    def __init__(
        self, every_n_steps: int = 1000, pictures: int = 16, steps: int = 25, seed: int = 0
    ) -> None:
        """`steps`: how many timesteps of the chain DDIM visits."""
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
            images = self.draw(pl_module.ema, pl_module.objective, pl_module.device)
        sheet = contact_sheet(images)
        path = files.writable_folder(Path(trainer.default_root_dir) / "samples")
        path = path / f"step_{step:07d}.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        for logger in trainer.loggers:
            show(logger, sheet, step)

    def draw(
        self, net: nn.Module, objective: Objective, device: torch.device
    ) -> Float[Tensor, "pictures 3 size size"]:
        """The samples; a class-conditional network draws its first classes in turn."""
        shape, indices = (3, net.image_size, net.image_size), range(self.pictures)
        start = own_noise(self.seed, indices, shape)(net.schedule.steps).to(device)
        conditional = net.label_emb is not None
        labels = (torch.arange(self.pictures, device=device),) if conditional else ()
        return ddim(
            lambda x, t: net(x, t, *labels),
            start,
            net.schedule,
            objective=objective,
            respacing=str(self.steps),
        ).x


def show(logger: pl.loggers.Logger, sheet: Image.Image, step: int) -> None:
    """The sheet in loggers that show pictures; others do without."""
    if isinstance(logger, pl.loggers.WandbLogger):
        logger.log_image("samples", [sheet], step=step)
    elif isinstance(logger, pl.loggers.TensorBoardLogger):
        pixels = torch.tensor(list(sheet.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(sheet.height, sheet.width, 3)
        logger.experiment.add_image("samples", pixels, step, dataformats="HWC")
