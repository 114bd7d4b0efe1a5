"""What a segmenter has learned, as others can load it: each member in its published file."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from diffdict import files
from diffdict.checkpoints import save_whole


class KeepClassifiers(pl.Callback):
    """`<run>/classifiers/model_0.pth` and so on, as ddpm-segmentation reads and writes them."""

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All members, once the training has ended well."""
        folder = files.writable_folder(Path(trainer.default_root_dir) / "classifiers")
        for row, number in enumerate(pl_module.number.tolist()):
            content = pl_module.classifier(row)
            save_whole(content, folder / f"model_{number}.pth")
