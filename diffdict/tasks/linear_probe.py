"""`task=linear_probe`: a linear head at every timestep and block, all trained side by side.

The published probe (Xiang et al. 2023) of one place, at as many as are asked for and from one pass
a timestep; places and rates are chosen on pictures that were held out, not on the test's. With
`joined` one more head looks at several places at once.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffdict import files
from diffdict.backbones.base import Backbone
from diffdict.classifiers.epoch_choice import EpochChoice
from diffdict.classifiers.joined_cells import JoinedCells
from diffdict.classifiers.linear import LinearHeads
from diffdict.classifiers.probe_settings import check_probe, check_same_probe, checked_rates
from diffdict.classifiers.targets.picture_targets import picture_targets
from diffdict.errors import UserError
from diffdict.features.kept_vectors import AbandonUnfinished, KeptVectors
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.mirror_vectors import MirrorVectors
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.pooled import pooled_vectors
from diffdict.features.probe_images import KeptPart, ProbeImages
from diffdict.features.recorded_network import RecordedNetwork
from diffdict.features.store.shards import Stream
from diffdict.metrics.accuracy import PictureFigures
from diffdict.metrics.base import ExactMetric
from diffdict.results.tables import Row
from diffdict.seeds import entropy
from diffdict.training.epoch import current_epoch
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import stop
from diffdict.training.schedule import make_optimizer, schedule_by_epoch


class LinearProbe(pl.LightningModule):
    """Learns heads on pooled maps of a frozen network, which no checkpoint holds."""

    def __init__(
        self,
        net: Backbone | None,
        optimizer: Callable[[Iterable], torch.optim.Optimizer],
        num_classes: int,
        class_names: Sequence[str],
        target: str,
        ignore_label: int | None = None,
        *,
        timestep: Timesteps = None,
        block: Blocks = None,
        noise: Noise = Noise(),  # noqa: B008 - immutable
        compute: str = "fp32",
        rates: Sequence[float | int] | None = None,
        decay: str = "cosine",
        normalize: bool = False,
        prevalence: Sequence[float | int] = (0.05, 0.95),
        seed: int = 0,
        cells: Sequence[Mapping] | None = None,
        backbone: str = "",
        backbone_sha256: str = "",
        attributes: Sequence[Mapping] = (),
        epoch: str = "last",
        joined: str | Sequence[str] | None = None,
    ) -> None:
        """With no `net`, of stored features: what their `cells` are, and of which `backbone`.

        `rates` instead of the optimizer's own: a head each at every place.
        `decay` of the rate over the epochs; `normalize`: vectors of length 1.
        `epoch` whose heads are tested: the last, or of each head its best on pictures held out.
        `joined`: names of cells that one more head sees together, or `all`.
        """
        super().__init__()
        check_probe(decay, epoch)
        self.targets = picture_targets(target, class_names, attributes, prevalence)
        self.passes = None if net is None else Passes(net, timestep, block, noise, compute)
        self.looks_through = (backbone, backbone_sha256) if net is None else (net.name, net.sha256)
        self.optimizer, self.decay, self.seed, self.noise = optimizer, decay, seed, noise
        self.kept = self._keeps(net)
        self.rates = checked_rates(rates, optimizer)
        self.class_names, self.target, self.ignore_label = list(class_names), target, ignore_label
        self.figure, self.normalize = self.targets.figure, normalize
        if net is None:
            self.cells = [Stream(**cell) for cell in cells]
        else:
            self.cells = [Stream(*net.shapes[key[1]], "fp32", *key) for key in self.passes.keys]
        self.joined = None if joined is None else JoinedCells(self.cells, joined)
        self.cells += [] if self.joined is None else [self.joined.cell]
        widths = [cell.channels for cell in self.cells]
        seeds = [entropy(seed, *cell.name.encode()) for cell in self.cells]
        self.heads = LinearHeads(widths, num_classes, len(self.rates), seeds)
        self._begin_measuring(num_classes, epoch)

    def _keeps(self, net: Backbone | None) -> KeptVectors | MirrorVectors | None:
        """What need not be computed in every epoch, if anything."""
        if isinstance(net, RecordedNetwork):
            return KeptVectors(self.passes, self.noise, self.seed)
        noisy = net is None or net.num_timesteps is not None
        return None if noisy else MirrorVectors(self.passes)

    def _begin_measuring(self, num_classes: int, epoch: str) -> None:
        """Nothing is chosen, counted or tested yet."""
        number = len(self.cells), len(self.rates)
        self.register_buffer("held_out", torch.full(number, torch.nan, dtype=torch.float64))
        self.register_buffer("counted", torch.ones(num_classes, dtype=torch.bool))
        self.register_buffer("learned_from", torch.zeros(num_classes, dtype=torch.int64))
        self.choice = EpochChoice(self.heads, *number) if epoch == "best" else None
        self.peeking, self.choosing, self.testing = (
            self.targets.metric(math.prod(number)) for _ in range(3)
        )
        self.tested: PictureFigures | None = None
        self.test_details: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Looks which features are kept already."""
        if self.kept is not None:
            self.kept.attend(self.trainer, stage)

    def on_train_start(self) -> None:
        """Counts the pictures of each class."""
        data = self.trainer.datamodule
        if self.target == "class" and isinstance(data, ProbeImages):
            self.learned_from.copy_(data.split("train").every_truth.sum(0))

    def configure_callbacks(self) -> list[pl.Callback]:
        """Takes away what a run that stops leaves unfinished."""
        return [AbandonUnfinished(self.kept)] if isinstance(self.kept, KeptVectors) else []

    def vectors(
        self, images: Float[Tensor, "batch 3 height width"], indices: Sequence[int], noise: Noise
    ) -> list[Float[Tensor, "batch _"]]:
        """Each cell's maps of these pictures, pooled."""
        return self._scaled(pooled_vectors(self.passes, images, indices, noise))

    def _scaled(self, vectors: list[Float[Tensor, "batch _"]]) -> list[Float[Tensor, "batch _"]]:
        """Of length 1 if asked, and behind them those of joined cells as one."""
        scaled = [F.normalize(x, dim=1) for x in vectors] if self.normalize else vectors
        return scaled if self.joined is None else [*scaled, self.joined.vectors(scaled)]

    def scores(
        self,
        batch: Mapping,
        noise: Noise,
        part: KeptPart | None = None,
        heads: LinearHeads | None = None,
    ) -> Float[Tensor, "cells rates batch classes"]:
        """What every head says of a batch; its features are kept in `part`, or will be."""
        if "image" not in batch and self.kept is not None:
            vectors = self.kept.vectors(part, batch["index"])
        elif "image" not in batch:
            vectors = self.trainer.datamodule.vectors(part.split, batch["index"].tolist())
        else:
            pictures = batch["image"], batch["index"].tolist()
            vectors = pooled_vectors(self.passes, *pictures, noise)
            if isinstance(self.kept, KeptVectors) and part is not None:
                vectors = self.kept.add(part, batch["index"], vectors)
        return (heads or self.heads)(self._scaled([x.to(self.device) for x in vectors]))

    @property
    def tested_heads(self) -> LinearHeads:
        """Those of the last epoch, or of the best."""
        return self.heads if self.choice is None else self.choice.heads

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """A batch under noise of its epoch: the sum of the heads' losses, which share nothing."""
        part = KeptPart("train", self._copy())
        scores = self.scores(batch, self._epoch_noise(), part)
        losses = self.targets.losses(scores, batch["truth"])
        if logs_now(self.trainer, self.global_step):
            self._log_losses(losses.detach())
        return losses.sum()

    def _copy(self) -> int:
        """Which copy of the training pictures this epoch sees: its own, unless they come round."""
        epoch, data = current_epoch(self.trainer), self.trainer.datamodule
        return data.copy_of(epoch) if isinstance(data, ProbeImages) else epoch

    def _epoch_noise(self) -> Noise:
        """One draw a picture, by (seed, epoch, picture): known from the batches trained on."""
        seed = entropy(self.noise.seed, self.seed, self._copy())
        return self.noise._replace(seed=seed, draws=1)

    def _log_losses(self, losses: Float[Tensor, "cells rates"]) -> None:
        """The mean of the heads, and the rate."""
        if not losses.isfinite().all():
            cell, rate = (~losses.isfinite()).nonzero()[0].tolist()
            stop(
                self.trainer,
                f"The loss of {self.cells[cell].name} at rate {self.rates[rate]:g} is no number at "
                f"step {self.global_step}",
            )
        self.log("train/loss", losses.mean(), prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def validation_step(self, batch: Mapping, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Pictures held out; with data.test_each_epoch those of the test after them."""
        split = self.trainer.datamodule.test_split if dataloader_idx else "val"
        part = None if self.trainer.sanity_checking else KeptPart(split)
        metric = self.peeking if dataloader_idx else self.choosing
        self._measure(batch, metric, part, self.heads)

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """Pictures that no choice has seen."""
        part = KeptPart(self.trainer.datamodule.test_split)
        self._measure(batch, self.testing, part, self.tested_heads)

    def _measure(
        self,
        batch: Mapping,
        metric: ExactMetric,
        part: KeptPart | None,
        heads: LinearHeads,
    ) -> None:
        """What every head says, beside the truth, under noise of the picture alone."""
        scores = self.scores(batch, self.noise, part, heads).flatten(0, 1).transpose(0, 1)
        metric.update(scores, batch["truth"])

    def on_validation_epoch_end(self) -> None:
        """The figures to choose by, and of presence which classes count."""
        if not self.trainer.sanity_checking:
            figures = self.choosing.compute()
            means = torch.tensor(figures.mean, dtype=self.held_out.dtype)
            self.held_out.copy_(means.view_as(self.held_out))
            self.counted.copy_(torch.tensor(figures.counted))
            if self.choice is not None:
                self._choose_epoch()
            self._log("val", self._of_cells(figures.mean))
            self.log("val/chosen", float(self.held_out.max()))
        self.choosing.reset()
        self.peeking.reset()

    def _choose_epoch(self) -> None:
        """Each head's best epoch so far, by which places and rates are chosen too."""
        self.choice.offer(self.heads, self.held_out, self.current_epoch)
        self.held_out.copy_(self.choice.held_out)
        if self.peeking.update_called:
            if self.targets.held_out_decides:
                self.peeking.count_only(self.counted)  # as the test will
            figures = torch.tensor(self.peeking.compute().mean, dtype=self.held_out.dtype)
            self.choice.see_test(figures.view_as(self.held_out), self.current_epoch)

    def on_fit_start(self) -> None:
        """Refuses to begin where there will be nothing to choose by."""
        data = self.trainer.datamodule
        if data is not None and not len(data.split("val")):
            raise UserError(
                "data.val_share=null leaves no picture to choose heads by: data.val_share=0.1"
            )

    def on_test_start(self) -> None:
        """What was never validated cannot be chosen from."""
        if self.held_out.isnan().any():
            raise UserError(
                "No head was measured on pictures held out, so none can be chosen: leave "
                "trainer.limit_val_batches as it is, and train until an epoch ends"
            )
        if self.targets.held_out_decides:
            self.testing.count_only(self.counted)

    def on_test_epoch_end(self) -> None:
        """The figures of every place at its chosen rate, and of the chosen place."""
        self.tested = self.testing.compute()
        self.test_details = self.targets.details(self.testing)
        self.testing.reset()
        figures = self._of_cells(self.tested.mean)
        self._log("test", figures)
        for cell in self.cells:
            self.log(f"test/{cell.name}/{self.figure}_random", self.tested.chance)
        self.log("test/chosen", figures[self.chosen_cell])
        self.log("test/published_choice", max(figures))  # the best on the test pictures themselves

    @property
    def chosen_rates(self) -> list[int]:
        """Of every cell the rate whose head is best on pictures held out."""
        return self.held_out.argmax(1).tolist()

    @property
    def chosen_cell(self) -> int:
        """The cell whose head is best on pictures held out."""
        return int(self.held_out.amax(1).argmax())

    def _of_cells(self, heads: Sequence[float]) -> list[float]:
        """Of every cell what its chosen head has, from a value a head."""
        rates = len(self.rates)
        return [heads[cell * rates + rate] for cell, rate in enumerate(self.chosen_rates)]

    def _log(self, split: str, figures: Sequence[float]) -> None:
        for cell, figure in zip(self.cells, figures, strict=True):
            self.log(f"{split}/{cell.name}/{self.figure}", figure)

    def tables(self) -> dict[str, list[Row]]:
        """Every cell on pictures held out and on the test's; every class at the chosen cell.

        `published_choice` marks the best cell on the test pictures, which DDAE's own table names:
        a choice that has seen what it is measured by.
        """
        if self.tested is None:
            return {}
        figures, errors = self._of_cells(self.tested.mean), self._of_cells(self.tested.error)
        best = max(range(len(figures)), key=figures.__getitem__)
        rows = [
            {
                "timestep": cell.timestep,
                "block": cell.block,
                "channels": cell.channels,
                "sigma": self.passes and self.passes.net.noise_level(cell.timestep),
                "rate": self.rates[rate],
                f"val_{self.figure}": float(self.held_out[i, rate]),
                self.figure: figures[i],
                "standard_error": errors[i],
                "chance": self.tested.chance,
                "chosen": i == self.chosen_cell,
                "published_choice": i == best,
            }
            | ({} if self.choice is None else self.choice.row(i, rate))
            | self._joined_row(cell)
            for i, (cell, rate) in enumerate(zip(self.cells, self.chosen_rates, strict=True))
        ]
        cell, counts = self.chosen_cell, self.learned_from.tolist()
        head = cell * len(self.rates) + self.chosen_rates[cell]
        of_classes = self.targets.rows(self.tested, head, self.test_details, counts)
        return {"cells": rows, self.targets.table: of_classes}

    def _joined_row(self, cell: Stream) -> Row:
        """Which cells a place is made of, in a table where one is."""
        if self.joined is None:
            return {}
        return {"joined": " ".join(self.joined.names) if cell is self.joined.cell else None}

    @torch.no_grad()
    def look(self, image: Float[Tensor, "3 height width"], folder: Path) -> list[Row]:
        """The likeliest classes of one picture by the chosen cell's head."""
        if self.passes is None:
            raise UserError(
                "Heads on stored features have no network to look at a picture with: give it with "
                "data.source=live"
            )
        files.writable_folder(folder)
        cell = self.chosen_cell
        vectors = self.vectors(image[None], [0], self.noise)
        scores = self.tested_heads(vectors)[cell, self.chosen_rates[cell], 0].float()
        return self.targets.spoken(scores)

    def configure_optimizers(self) -> dict:
        """A group of parameters a rate; all fall together, an epoch at a time."""
        groups = [
            {"params": list(heads.parameters()), "lr": rate}
            for heads, rate in zip(self.heads.own, self.rates, strict=True)
        ]
        optimizer = make_optimizer(self.optimizer, groups)
        return schedule_by_epoch(optimizer, self.trainer, self.decay)

    @property
    def described(self) -> dict[str, object]:
        """What a checkpoint's heads were learned on, in plain values."""
        return {
            "target": self.target,
            "classes": self.class_names,
            "cells": [cell.name for cell in self.cells],
            "joined": self.joined and self.joined.names,
            "rates": self.rates,
            "normalize": self.normalize,
            "network": self.looks_through[0],
            "weights": self.looks_through[1],
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """With it what the heads were learned on."""
        checkpoint["probe"] = self.described

    def check_checkpoint(self, path: str | Path, content: Mapping) -> None:
        """Nothing, or what differs between a run's heads and these."""
        theirs, ours = content.get("probe"), self.described
        if theirs is not None:  # else another task's, which its shapes say
            check_same_probe(path, theirs, ours)
