"""Pooled features that no noise changes, made once of each picture and of its mirror image."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from jaxtyping import Float32, Integer
from rich.progress import track
from torch import Tensor

from diffdict.data.images import EvaluationLoader, Part
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.pooled import pooled_vectors
from diffdict.features.probe_images import EveryPart, KeptPart, ProbeImages

Vectors = Mapping[bool, list[Float32[Tensor, "pictures _"]]]  # of mirror images, or as they are


class MirrorVectors:
    """Held in memory while heads learn: an epoch then needs neither pictures nor network.

    Only where a flip is all that training pictures go through, by one rank.
    """

    def __init__(self, passes: Passes) -> None:
        """`passes` of a network without timesteps."""
        self.passes = passes
        self.data: ProbeImages | None = None
        self._of: dict[str, Vectors] = {}  # by split

    def attend(self, trainer: pl.Trainer, stage: str) -> None:
        """Looks at the pictures of a training and its validation, if several epochs will."""
        data = trainer.datamodule
        if stage != "fit" or not isinstance(data, ProbeImages) or not _come_again(trainer, data):
            return
        self.data = data
        splits = ["train", "val", *([data.test_split] if data.test_each_epoch else [])]
        with trainer.precision_plugin.forward_context():
            for split in splits:
                ways = (False, True) if split == "train" and data.flip else (False,)
                self._of[split] = self._made(split, ways, trainer.strategy.root_device)
                data.read_kept(EveryPart(), split)

    def vectors(
        self, part: KeptPart, indices: Integer[Tensor, " batch"]
    ) -> list[Float32[Tensor, "batch _"]]:
        """Each cell's features of these pictures, as the part's epoch shows them."""
        of = self._of[part.split]
        rows = self.data.split(part.split).rows(indices.tolist())
        chosen = [x[rows] for x in of[False]]
        if True not in of:
            return chosen
        mirrored = self.data.mirrored(part.epoch, rows)[:, None]
        return [torch.where(mirrored, y[rows], x) for x, y in zip(chosen, of[True], strict=True)]

    def _made(self, split: str, ways: tuple[bool, ...], device: torch.device) -> Vectors:
        """Every picture of a split, once each way."""
        data, parts = self.data, {way: [] for way in ways}
        pictures = data.split(split)
        loader = EvaluationLoader(pictures, data.batch_size, data.num_workers, data.seed, Part())
        for batch in track(loader, f"Vectors of {split}", disable=len(loader) < 2):
            images, places = batch["image"].to(device), batch["index"].tolist()
            for way in ways:
                views = images.flip(-1) if way else images
                parts[way].append(pooled_vectors(self.passes, views, places, Noise()))
        return {
            way: [torch.cat([x.cpu() for x in cell]) for cell in zip(*each, strict=True)]
            for way, each in parts.items()
        }


def _come_again(trainer: pl.Trainer, data: ProbeImages) -> bool:
    """Whether whole epochs see the same pictures, mirrored at most, more than once."""
    changed = data.crop_padding or data.zoom > 1
    limited = trainer.overfit_batches or trainer.limit_train_batches != 1.0
    several = trainer.max_epochs not in (0, 1) and trainer.max_steps < 0
    return several and not changed and not limited and trainer.world_size == 1
