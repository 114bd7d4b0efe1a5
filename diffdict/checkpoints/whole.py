"""How a training's checkpoints reach the disk: whole, and in the folder that they are for."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from diffdict import files


def save_whole(content: Mapping, path: str | Path) -> Path:
    """A torch file with this content, or the one that was there.

    By way of memory: of a full disk torch.save would only know that its position is wrong.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return files.write_atomic(path, buffer.getvalue())


class WholeCheckpoints(TorchCheckpointIO):
    """Written beside their final name, synced and renamed.

    Lightning's own way goes by the system's folder for temporary files. Where that is another disk
    the last step is a copy, and a kill in its midst leaves half a checkpoint in place of a whole.
    """

    def save_checkpoint(
        self, checkpoint: dict, path: str | Path, storage_options: object = None
    ) -> None:
        """The new checkpoint, or the one that was there."""
        save_whole(checkpoint, path)
