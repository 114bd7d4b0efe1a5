"""`task=fine_tuning`: a network learns on with a linear head, as far as one block.

What pre-training is worth where labels are few: the network from its checkpoint against the same
one from scratch (backbone.checkpoint=null), at data.label_share=0.01, 0.1 and 1. The layers behind
the block are never passed. A picture's noise belongs to (seed, epoch, picture), what dropout leaves
out to (seed, batch, rank): a resumed run sees the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from diffdict import files
from diffdict.backbones.base import Backbone
from diffdict.classifiers.linear import LinearHeads
from diffdict.classifiers.probe_settings import check_same_probe
from diffdict.classifiers.targets.picture_targets import picture_targets
from diffdict.errors import UserError
from diffdict.features.locations import Blocks, Timesteps, listed
from diffdict.features.noise import Noise, noised_features
from diffdict.features.probe_images import ProbeImages
from diffdict.features.store.shards import Stream
from diffdict.metrics.accuracy import PictureFigures
from diffdict.metrics.base import ExactMetric
from diffdict.results.tables import Row
from diffdict.seeds import entropy
from diffdict.training.dropout import seed_dropout
from diffdict.training.epoch import current_epoch
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import stop_too_fast
from diffdict.training.schedule import Rates

SCRATCH = "scratch"  # what a network begins from that comes from no file


class FineTuning(pl.LightningModule):
    """Learns the layers up to a block and a head on its pooled map; its last.ckpt is a backbone."""

    def __init__(
        self,
        net: Backbone,
        optimizer: Callable[[Iterable], torch.optim.Optimizer],
        num_classes: int,
        class_names: Sequence[str],
        target: str,
        *,
        timestep: Timesteps = None,
        block: Blocks = None,
        noise: Noise = Noise(shared=False),  # noqa: B008 - immutable
        net_rate: float | int | None = None,
        decay: str = "cosine",
        warmup_steps: int = 0,
        prevalence: Sequence[float | int] = (0.05, 0.95),
        seed: int = 0,
        attributes: Sequence[Mapping] = (),
    ) -> None:
        """`net_rate` of the network; None: the optimizer's own, which is that of the head.

        `decay` of both rates over the steps, after they have risen over `warmup_steps`.
        """
        super().__init__()
        self.targets = picture_targets(target, class_names, attributes, prevalence)
        self.target, self.class_names = target, list(class_names)
        self.optimizer, self.net_rate, self.seed, self.noise = optimizer, net_rate, seed, noise
        if net_rate is not None and not net_rate > 0:
            raise UserError(f"model.net_rate is a positive number, got {net_rate}: 1e-4, say")
        self.rates, self.warmup_steps = Rates(warmup_steps, 0, decay, 1.0, 0), warmup_steps
        self.cell = chosen_cell(net, timestep, block)
        self.start = net.file_sha256 or SCRATCH
        parameters = reached_parameters(net, self.cell)
        self.net = net.requires_grad_(False).to(memory_format=torch.channels_last)
        for parameter in parameters:
            parameter.requires_grad_(True)
        seeds = [entropy(seed, *self.cell.name.encode())]  # as task=linear_probe begins
        self.head = LinearHeads([self.cell.channels], num_classes, 1, seeds)
        self.register_buffer("learned_from", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("pictures", torch.zeros((), dtype=torch.int64))
        self.validating, self.testing = (self.targets.metric(1) for _ in range(2))
        self.validated: float | None = None
        self.tested: PictureFigures | None = None
        self.test_details: Tensor | None = None

    # ------------------------------------------------------------------ a step

    def scores(
        self, images: Float[Tensor, "batch 3 height width"], indices: Sequence[int], noise: Noise
    ) -> Float[Tensor, "1 1 batch classes"]:
        """What the head says of these pictures; the mean of the maps over draws of noise."""
        place = self.cell.timestep, [self.cell.block]
        (maps,) = noised_features(self.net, images, indices, *place, noise).values()
        return self.head([maps.float().mean((2, 3))])

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """A batch under noise of its epoch."""
        seed_dropout([self.net], self.trainer, self.seed)
        seed = entropy(self.noise.seed, self.seed, current_epoch(self.trainer))
        noise = self.noise._replace(seed=seed, draws=1)
        scores = self.scores(batch["image"], batch["index"].tolist(), noise)
        loss = self.targets.losses(scores, batch["truth"]).sum()
        if not loss.isfinite():
            what = f"The loss is no number at step {self.global_step}"
            stop_too_fast(self.trainer, what, self.warmup_steps)
        if logs_now(self.trainer, self.global_step):
            self.log("train/loss", loss.detach(), prog_bar=True)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_train_start(self) -> None:
        """Counts the pictures that are learned from, and those of each class."""
        data = self.trainer.datamodule
        if isinstance(data, ProbeImages):
            pictures = data.split("train")
            self.pictures.fill_(len(pictures))
            if self.target == "class":
                self.learned_from.copy_(pictures.every_truth.sum(0))

    def configure_optimizers(self) -> dict:
        """Two groups of parameters, whose rates rise and fall together."""
        network = {"params": [p for p in self.net.parameters() if p.requires_grad]}
        network |= {} if self.net_rate is None else {"lr": float(self.net_rate)}
        groups = [{"params": list(self.head.parameters())}, network]
        return self.rates.scheduled(self.optimizer, groups, self.trainer)

    # ------------------------------------------------------------------ what it is worth

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        """Pictures held out, where there are any; nothing is chosen by them."""
        self._measure(batch, self.validating)

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """The test pictures, under noise of each alone."""
        self._measure(batch, self.testing)

    def _measure(self, batch: Mapping, metric: ExactMetric) -> None:
        scores = self.scores(batch["image"], batch["index"].tolist(), self.noise)
        metric.update(scores.flatten(0, 1).transpose(0, 1), batch["truth"])

    def on_validation_epoch_end(self) -> None:
        """The figure so far."""
        if not self.trainer.sanity_checking:
            self.validated = self.validating.compute().mean[0]
            self.log(f"val/{self.cell.name}/{self.targets.figure}", self.validated)
        self.validating.reset()

    def on_test_epoch_end(self) -> None:
        """The figure, and what it would be by chance."""
        self.tested = self.testing.compute()
        self.test_details = self.targets.details(self.testing)
        self.testing.reset()
        name = f"test/{self.cell.name}/{self.targets.figure}"
        self.log(name, self.tested.mean[0])
        self.log(f"{name}_random", self.tested.chance)

    def tables(self) -> dict[str, list[Row]]:
        """The network's row, which says what it began from; and one of each class."""
        if self.tested is None:
            return {}
        row = {
            "timestep": self.cell.timestep,
            "block": self.cell.block,
            "channels": self.cell.channels,
            "sigma": self.net.noise_level(self.cell.timestep),
            "start": self.start,
            "train_pictures": int(self.pictures),
            self.targets.figure: self.tested.mean[0],
            "standard_error": self.tested.error[0],
            "chance": self.tested.chance,
        }
        counts = self.learned_from.tolist()
        of_classes = self.targets.rows(self.tested, 0, self.test_details, counts)
        return {"cells": [row], self.targets.table: of_classes}

    @torch.no_grad()
    def look(self, image: Float[Tensor, "3 height width"], folder: Path) -> list[Row]:
        """The likeliest classes of one picture."""
        files.writable_folder(folder)
        return self.targets.spoken(self.scores(image[None], [0], self.noise)[0, 0, 0].float())

    # ------------------------------------------------------------------ checkpoints

    @property
    def described(self) -> dict[str, object]:
        """What a checkpoint's network and head were learned on, in plain values."""
        return {
            "target": self.target,
            "classes": self.class_names,
            "cell": self.cell.name,
            "network": self.net.name,
            "start": self.start,
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """With it what was learned on."""
        checkpoint["fine_tuning"] = self.described

    def check_checkpoint(self, path: str | Path, content: Mapping) -> None:
        """Nothing, or what differs between a run's head and network and these."""
        theirs = content.get("fine_tuning")
        if theirs is not None:  # else another task's, which its shapes say
            check_same_probe(path, theirs, self.described)


def chosen_cell(net: Backbone, timestep: Timesteps, block: Blocks) -> Stream:
    """The one timestep and block of the network that a head is put on."""
    timesteps = [None] if net.num_timesteps is None or timestep is None else listed(timestep)
    blocks = net.chosen(block)
    for word, places in (("timestep", timesteps), ("block", blocks)):
        if len(places) != 1:
            raise UserError(
                f"A network learns on as far as one place, got {len(places)} of {word}=: {word}="
                f"{places[0] if places else 11}"
            )
    net.check_timestep(timesteps[0])
    return Stream(*net.shapes[blocks[0]], "fp32", timesteps[0], blocks[0])


def reached_parameters(net: Backbone, cell: Stream) -> list[torch.nn.Parameter]:
    """Those that a block's map hangs on: all others would never learn."""
    picture = (3, net.image_size, net.image_size)
    noise = torch.zeros(net.noise_shape(picture)) if net.num_timesteps is not None else None
    parameters = [p for p in net.parameters() if p.requires_grad]
    maps = net.eval().features(torch.zeros(1, *picture), cell.timestep, [cell.block], noise)
    reached: tuple[Tensor | None, ...] = ()
    if maps[cell.block].requires_grad:
        total = maps[cell.block].float().sum()
        reached = torch.autograd.grad(total, parameters, allow_unused=True)
    trainable = [p for p, reach in zip(parameters, reached, strict=False) if reach is not None]
    if not trainable:
        raise UserError(
            f"No weight of {net.name} moves its block {cell.block}, so there is nothing to learn: "
            "another block=, or task=linear_probe, whose head alone learns"
        )
    return trainable
