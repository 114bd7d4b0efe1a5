"""Writes a training's checkpoints atomically."""

from pathlib import Path

from pytorch_lightning.plugins.io import TorchCheckpointIO

from diffdict.checkpoints import save_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints are written beside their final name, synced and renamed.

    Lightning itself writes to the system's temporary folder. If that is on another disk, its last
    step is a copy, and a kill during it leaves half a checkpoint in place of a whole one.
    """

    def save_checkpoint(
        self, checkpoint: dict, path: str | Path, storage_options: object = None
    ) -> None:
        """Replaces the file at once: it holds the new checkpoint or the previous one."""
        save_whole(checkpoint, path)
