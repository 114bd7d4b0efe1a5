"""How often each latent is active: to a file, and to loggers that show histograms."""

import io
import sys
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from diffdict import files
from diffdict.metrics.sparsity import DensityHistogram, density_histogram
from diffdict.sae.grid import ALONE


class Densities(pl.Callback):
    """After each validation `<run>/density.npz`, and the same counts to wandb and tensorboard.

    For every dictionary NAME the file holds `NAME`, the share of the tokens at which each latent
    was active, and `NAME_counts` of latents between `edges`, in log10 of the density.
    """

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What the dictionaries kept of the validation that has just ended."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        arrays = {}
        for name, (sae, _) in pl_module.dictionaries().items():
            histogram = density_histogram(sae.frequency)
            arrays["edges"] = histogram.edges.numpy()
            arrays[name] = sae.frequency.cpu().numpy()
            arrays[f"{name}_counts"] = histogram.counts.numpy()
            place = "val/density" if name == ALONE else f"val/{name}/density"
            for logger in trainer.loggers:
                log_histogram(logger, place, histogram, trainer.global_step)
        data = io.BytesIO()
        np.savez(data, **arrays)
        files.write_atomic(Path(trainer.default_root_dir) / "density.npz", data.getvalue())


def log_histogram(
    logger: pl.loggers.Logger, name: str, histogram: DensityHistogram, step: int
) -> None:
    """The histogram in loggers that show them; others do without."""
    edges, counts = histogram.edges.numpy(), histogram.counts.numpy()
    if isinstance(logger, pl.loggers.WandbLogger):
        wandb_histogram = sys.modules["wandb"].Histogram(np_histogram=(counts, edges))
        logger.log_metrics({name: wandb_histogram}, step=step)
    elif isinstance(logger, pl.loggers.TensorBoardLogger):
        middles = (edges[:-1] + edges[1:]) / 2
        logger.experiment.add_histogram_raw(
            name,
            min=middles.min(),
            max=middles.max(),
            num=int(counts.sum()),
            sum=float((counts * middles).sum()),
            sum_squares=float((counts * middles**2).sum()),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )
