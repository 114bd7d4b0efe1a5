"""`task=noisy_classifier`: the class of a picture from features of any timestep, by one head.

A head on one block's pooled features is told the timestep, and learns at random ones (Xiang et
al. 2023); accuracy is measured at twenty of them, from hardly any noise to nothing else. A
picture's timestep and noise belong to (seed, epoch, picture): a resumed run sees the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.classifiers.noisy import NoisyMLP
from diffdict.errors import UserError, at_least
from diffdict.features.locations import Blocks, Timesteps, listed
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.pooled import pooled_vectors
from diffdict.features.store.shards import Stream
from diffdict.metrics.accuracy import Accuracy, PictureFigures
from diffdict.seeds import entropy
from diffdict.training.epoch import current_epoch
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import stop
from diffdict.training.schedule import DECAYS, make_optimizer, schedule_by_epoch

LEVELS = 20  # timesteps at which a chain is measured
TIME, NOISE = range(2)  # which family of draws a seed opens


class NoisyClassifier(pl.LightningModule):
    """Learns a head on pooled maps of a frozen network, which no checkpoint holds."""

    def __init__(
        self,
        net: Backbone,
        optimizer: Callable[[Iterable], torch.optim.Optimizer],
        num_classes: int,
        class_names: Sequence[str],
        target: str = "class",
        *,
        timestep: Timesteps = None,
        block: Blocks = None,
        noise: Noise = Noise(shared=False),  # noqa: B008 - immutable
        compute: str = "fp32",
        decay: str = "cosine",
        warmup_epochs: int = 0,
        seed: int = 0,
    ) -> None:
        """`timestep`: where accuracy is measured; None: at twenty of a chain, at all of few levels.

        `decay` of the rate over the epochs, after it has risen over `warmup_epochs`.
        """
        super().__init__()
        if decay not in DECAYS:
            raise UserError(f"model.decay is {', '.join(DECAYS)}, got {decay!r}")
        at_least(0, "model", warmup_epochs=warmup_epochs)
        if target != "class":
            raise UserError(
                "A noisy picture is told by its class, and these have none, but for their masks: "
                "choose pictures with classes, such as dataset=cifar10"
            )
        if num_classes < 2:
            raise UserError(f"A classifier tells two classes or more apart, got {num_classes}")
        if net.num_timesteps is None:
            raise UserError(
                f"{net.name} has no timesteps, and noisy pictures are classified at those of a "
                "diffusion network: give one with backbone="
            )
        self.optimizer, self.decay, self.warmup_epochs = optimizer, decay, warmup_epochs
        self.noise, self.seed, self.class_names = noise, seed, list(class_names)
        levels = measured_timesteps(net) if timestep is None else listed(timestep)
        self.passes = Passes(net, levels, block, noise, compute)
        block, channels = self.start()
        self.cells = [Stream(channels, 1, 1, "fp32", level, block) for level in levels]
        self.validating, self.testing = (Accuracy(num_classes, len(levels)) for _ in range(2))
        self.tested: PictureFigures | None = None

    def start(self) -> tuple[Block, int]:
        """Makes what learns; the name and the width of what it is told of a picture."""
        if len(self.passes.blocks) > 1:
            raise UserError(
                f"A head looks at one block, got {len(self.passes.blocks)}: block="
                f"{self.passes.blocks[0]}"
            )
        (block,) = self.passes.blocks
        channels = self.passes.net.shapes[block][0]
        self.head = NoisyMLP(channels, len(self.class_names))
        return block, channels

    # ------------------------------------------------------------------ a step

    def logits(
        self, images: Float[Tensor, "batch 3 height width"], indices: Sequence[int], epoch: int
    ) -> Float[Tensor, "batch classes"]:
        """What the head says of pictures, each at a random timestep of this epoch."""
        net = self.passes.net.to(images.device)
        t = self.draw(indices, epoch, timestep_draw(net)).to(images.device)
        self.passes.noise = self.epoch_noise(epoch)
        (maps,) = self.passes.own_maps(images, indices, t).values()
        return self.head(maps.float().mean((2, 3)), t)

    def scores(
        self, images: Float[Tensor, "batch 3 height width"], indices: Sequence[int]
    ) -> Float[Tensor, "levels batch classes"]:
        """What the head says at each timestep measured, under noise of the picture alone."""
        vectors = pooled_vectors(self.passes, images, indices, self.noise)
        times = torch.tensor(self.passes.timesteps, device=images.device)
        scores = [self.head(x, t.expand(len(x))) for x, t in zip(vectors, times, strict=True)]
        return torch.stack(scores)

    def draw(
        self, indices: Sequence[int], epoch: int, one: Callable[[torch.Generator], Tensor]
    ) -> Int[Tensor, " batch"] | Float[Tensor, " batch"]:
        """A timestep or noise level a picture, from (seed, epoch, picture) alone."""
        generator, times = torch.Generator(), []
        for index in indices:
            generator.manual_seed(entropy(self.seed, TIME, epoch, index))
            times.append(one(generator))
        return torch.stack(times)

    def epoch_noise(self, epoch: int) -> Noise:
        """One draw a picture, new in every epoch."""
        seed = entropy(self.noise.seed, self.seed, NOISE, epoch)
        return self.noise._replace(shared=False, seed=seed, draws=1)

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """A batch: the cross-entropy of pictures whose class is known."""
        indices = batch["index"].tolist()
        logits = self.logits(batch["image"], indices, current_epoch(self.trainer))
        truth = batch["truth"].to(logits.dtype)
        wrong = -(logits.log_softmax(1) * truth).sum(1)
        loss = wrong.sum() / truth.sum().clamp(min=1)
        if logs_now(self.trainer, self.global_step):
            if not loss.isfinite():
                stop(self.trainer, f"The loss is no number at step {self.global_step}")
            self.log("train/loss", loss.detach(), prog_bar=True)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def configure_optimizers(self) -> dict:
        """The rate changes from epoch to epoch."""
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(self.optimizer, learning)
        return schedule_by_epoch(optimizer, self.trainer, self.decay, self.warmup_epochs)

    # ------------------------------------------------------------------ what it is worth

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        """Pictures held out, where there are any."""
        self._measure(batch, self.validating)

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """The test pictures at every timestep measured."""
        self._measure(batch, self.testing)

    def _measure(self, batch: Mapping, metric: Accuracy) -> None:
        scores = self.scores(batch["image"], batch["index"].tolist())
        metric.update(scores.transpose(0, 1), batch["truth"])

    def on_validation_epoch_end(self) -> None:
        """The mean over the timesteps: nothing is chosen by it."""
        if not self.trainer.sanity_checking:
            figures = self.validating.compute()
            self.log("val/accuracy", sum(figures.mean) / len(figures.mean))
        self.validating.reset()

    def on_test_epoch_end(self) -> None:
        """The accuracy at every timestep."""
        self.tested = self.testing.compute()
        self.testing.reset()
        for cell, figure in zip(self.cells, self.tested.mean, strict=True):
            self.log(f"test/{cell.name}/accuracy", figure)

    def tables(self) -> dict[str, list[dict[str, str | int | float | bool | None]]]:
        """Every timestep, its noise level, and the share of the test pictures told right."""
        if self.tested is None:
            return {}
        rows = [
            {
                "timestep": cell.timestep,
                "block": cell.block,
                "channels": cell.channels,
                "sigma": float(self.sigmas[cell.timestep - self.passes.net.first_timestep]),
                "accuracy": figure,
                "standard_error": error,
                "chance": self.tested.chance,
            }
            for cell, figure, error in zip(
                self.cells, self.tested.mean, self.tested.error, strict=True
            )
        ]
        return {"cells": rows}

    @property
    def sigmas(self) -> Float[Tensor, " steps"]:
        """The noise's deviation at each timestep for a signal of size 1."""
        return self.passes.net.process.noise_levels

    # ------------------------------------------------------------------ checkpoints

    @property
    def described(self) -> dict[str, object]:
        """What a checkpoint's head was learned on, in plain values."""
        return {
            "classes": self.class_names,
            "block": self.cells[0].block,
            "network": self.passes.net.name,
            "weights": self.passes.net.sha256,
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """With it what was learned on."""
        checkpoint["noisy"] = self.described

    def check_checkpoint(self, path: str | Path, content: Mapping) -> None:
        """Nothing, or what differs between a run's head and this one."""
        theirs = content.get("noisy")
        if theirs is None:
            return  # another task's, which its shapes say
        for key, value in self.described.items():
            if theirs.get(key) != value:
                raise UserError(
                    f"ckpt_path={path} was learned with {key} {theirs.get(key)}, here it is "
                    f"{value}: give what it was learned with, or learn anew without ckpt_path="
                )


def measured_timesteps(net: Backbone) -> list[int]:
    """Twenty evenly over a chain, from its first; all levels where there are no more."""
    first, steps = net.first_timestep, net.num_timesteps
    return list(range(first, first + steps, max(1, steps // LEVELS)))


def timestep_draw(net: Backbone) -> Callable[[torch.Generator], Int[Tensor, ""]]:
    """Draws one of the network's timesteps."""
    first, end = net.first_timestep, net.first_timestep + net.num_timesteps
    return lambda generator: torch.randint(first, end, (), generator=generator)
