"""`task=pixel_mlp`: few-shot segmentation by an ensemble of pixel classifiers, trained at once.

Each member stops early by its own loss. Running members are the first rows of the ensemble and
share its memory. A member that stops is swapped with the last running one; from then on neither
gradients nor the optimizer nor running statistics change it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from diffdict.bilinear.maps import NativeMaps
from diffdict.checkpoints import load_state_dict
from diffdict.classifiers.pixel_ensemble import Ensemble, classifier_files
from diffdict.errors import UserError
from diffdict.features.pixels.codes import CodedMaps, PixelMaps
from diffdict.features.pixels.data_module import LabelledPicture, PixelBatch
from diffdict.metrics.segmentation import (
    PROTOCOLS,
    Confusion,
    Prediction,
    Segmentation,
    check_protocol,
    top_tenth,
)
from diffdict.reports.segmentation.picture_labels import draw_labels
from diffdict.reports.subjects import SegmentedPicture
from diffdict.sae.load import load_dictionary
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import stop_too_fast
from diffdict.training.schedule import Rates

VOTES = ("majority", "soft")
WEIGHTS = {"none": 0.0, "root": 0.5, "inverse": 1.0}  # of a class: its share to the minus so much
PRECISIONS = ("32-true", "bf16-mixed")


class PixelMLP(pl.LightningModule):
    """The published ensemble (Baranchuk et al. 2022), and what has been learned since."""

    def __init__(
        self,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        d_in: int,
        num_classes: int,
        class_names: Sequence[str] = (),
        palette: Sequence[Sequence[int]] = (),
        ignore_label: int | None = None,
        sae: str | None = None,
        *,
        members: int = 10,
        hidden: Sequence[int] | None = None,
        classifiers: str | Sequence[str] | None = None,
        patience: int | None = 50,
        patience_from: int = 4,
        class_weights: str = "none",
        warmup_steps: int = 0,
        decay: str = "none",
        decay_share: float = 1.0,
        vote: str = "majority",
        protocol: str = "published",
        seed: int = 0,
    ) -> None:
        """A member stops when more than `patience` batches in a row were not better than its best.

        That is asked from epoch `patience_from` on, counted from 0. `classifiers`: finished ones,
        a folder of published files or a list of them, in place of `members` fresh ones. `sae`: the
        dictionary whose codes the features are, as the data module says.
        """
        super().__init__()
        _check(members, hidden, patience, patience_from, class_weights, vote)
        check_protocol(protocol)
        self.optimizer, self.patience, self.patience_from = optimizer, patience, patience_from
        self.class_weights, self.vote, self.protocol = class_weights, vote, protocol
        self.rates = Rates(warmup_steps, 0, decay, decay_share, 0)
        self.class_names = list(class_names) or [str(i) for i in range(num_classes)]
        self.palette, self.sae = palette, sae
        files = classifier_files(classifiers, members) if classifiers else []
        members = len(files) or members
        self.net = Ensemble(members, d_in, num_classes, hidden, seed)
        for i, file in enumerate(files):
            self.net.set_member(i, load_state_dict(file).state, str(file))
        self.running = 0 if files else members  # the first rows, which still train
        self.register_buffer("number", torch.arange(members))  # the member in each row
        self.register_buffer("best", torch.full((members,), torch.inf))
        self.register_buffer("waited", torch.zeros(members, dtype=torch.int64))
        counts = {name: Segmentation(num_classes, ignore_label) for name in VOTES}
        self.metrics = nn.ModuleDict({**counts, "uncertainty": MeanMetric()})
        self.confusions: dict[str, Confusion] = {}  # by vote
        self._live: list[Ensemble] = []  # in a list, so that its weights are not registered twice

    # ------------------------------------------------------------------ a step

    def on_train_start(self) -> None:
        """Ends the training if no member is running."""
        self._rest = 0  # batches until some member may have to stop
        self._weights = self._weigh() if self.class_weights != "none" else None
        if not self.running:
            self.trainer.should_stop = True
            return
        self.trainer.train_dataloader.only(self.number[: self.running].tolist())

    def training_step(self, batch: PixelBatch, batch_idx: int) -> Tensor:
        """The sum of the running members' losses, each on its own batch of pixels."""
        live = self._live[0]
        x, labels = batch.features.view(live.members, -1, self.net.d_in), batch.labels.flatten()
        with torch.no_grad():
            first = live.layers[0](x)
        self._first = x, first.requires_grad_()
        logits = live.rest(first).flatten(0, 1).float()
        losses = F.cross_entropy(logits, labels, self._weights, reduction="none")
        losses = losses.view(live.members, -1).sum(1)
        if self._weights is None:
            losses = losses / x.shape[1]
        else:
            losses = losses / self._weights[labels].view(live.members, -1).sum(1)
        self._losses = losses.detach()
        self._log_batch()
        return losses.sum()

    @torch.no_grad()
    def on_after_backward(self) -> None:
        """Computes the first layer's gradients into memory that is reused, which is faster."""
        (x, first), layer = self._first, self._live[0].layers[0]
        if layer.weight.grad is None:
            layer.weight.grad = torch.empty_like(layer.weight)
        if first.grad.dtype == layer.weight.dtype:
            torch.bmm(first.grad.mT, x, out=layer.weight.grad)
        else:
            layer.weight.grad.copy_(torch.bmm(first.grad.mT, x.to(first.dtype)))
        layer.bias.grad = first.grad.sum(1).to(layer.bias.dtype)

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clears all gradients but the first layer's, which are overwritten."""
        for parameter in list(self._live[0].parameters())[2:]:
            parameter.grad = None

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        """The step and early stopping: complete before a callback can save."""
        super().optimizer_step(*args, **kwargs)
        epoch = self.global_step // self.trainer.num_training_batches
        if self.patience is None or epoch < self.patience_from:
            return
        losses, count = self._losses, self.running
        if self.trainer.world_size > 1:
            distributed.broadcast(losses, 0)  # so that all ranks stop alike
        better = losses < self.best[:count]
        self.best[:count].copy_(torch.where(better, losses, self.best[:count]))
        self.waited[:count].add_(1).masked_fill_(better, 0)
        self._rest -= 1
        if self._rest <= 0:
            self._stop_those_that_waited()

    def _stop_those_that_waited(self) -> None:
        """Stops members that ran out of patience, and schedules the next check."""
        waited = self.waited[: self.running].tolist()
        if ready := [row for row, batches in enumerate(waited) if batches > self.patience]:
            self._check_losses()
            self._retire(ready)
        self._rest = self.patience + 1 - max((w for w in waited if w <= self.patience), default=0)
        if not self.running:
            self.trainer.should_stop = True

    def _retire(self, rows: Sequence[int]) -> None:
        """Swaps these rows with the last running ones, and stops them."""
        states = self.trainer.optimizers[0].state
        memories = [x for one in states.values() for x in one.values() if x.dim()]
        for row in reversed(rows):
            self.running -= 1
            self.net.swap(row, self.running)
            for x in (self.number, self.best, self.waited, *memories):
                x[[row, self.running]] = x[[self.running, row]]
        self._live[0].keep(self.running)
        for one in states.values():
            one.update({key: x[: self.running] for key, x in one.items() if x.dim()})
        self.trainer.train_dataloader.only(self.number[: self.running].tolist())

    def _weigh(self) -> Float[Tensor, " classes"]:
        """A weight for each class, of mean 1 over those that have pixels; 0 without any."""
        pixels = self.trainer.datamodule.class_pixels.to(self.device).float()
        weights = pixels.clamp(min=1).pow(-WEIGHTS[self.class_weights]) * (pixels > 0)
        return weights / weights.sum() * (pixels > 0).sum()

    def _log_batch(self) -> None:
        """Logs this batch's figures, averaged over the running members."""
        if not logs_now(self.trainer, self.global_step):
            return
        self._check_losses()
        self.log("train/loss", self._losses.mean(), prog_bar=True)
        self.log("train/running", float(self.running), prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def _check_losses(self) -> None:
        """Stops the run if a loss was not finite."""
        if not self._losses.isfinite().all():
            what = f"The loss is no number at step {self.global_step}"
            stop_too_fast(self.trainer, what, self.rates.warmup_steps)

    # ------------------------------------------------------------------ evaluation

    def predict(self, maps: PixelMaps) -> Prediction:
        """Labels and uncertainty of one picture, in float32 whatever the precision of training."""
        with torch.autocast(self.device.type, enabled=False):
            return self.net.predict(maps)

    def labels(self, prediction: Prediction) -> Int64[Tensor, "height width"]:
        """The labels by the vote that `vote` selects."""
        return getattr(prediction, self.vote)

    def validation_step(self, batch: LabelledPicture, batch_idx: int) -> None:
        """One training picture that was held out."""
        self._measure(batch)

    def test_step(self, batch: LabelledPicture, batch_idx: int) -> Prediction:
        """One test picture."""
        return self._measure(batch)

    def segmented(self, outputs: Prediction, batch: LabelledPicture) -> list[SegmentedPicture]:
        """The segmented picture of a test batch."""
        labels = self.labels(outputs)
        return [SegmentedPicture(batch.index, batch.mask, labels, outputs.uncertainty)]

    def confusion(self) -> Confusion:
        """The confusion matrix of the last test."""
        return self.confusions[self.vote]

    def _measure(self, picture: LabelledPicture) -> Prediction:
        prediction = self.predict(picture.maps)
        for vote in VOTES:
            self.metrics[vote].update(getattr(prediction, vote), picture.mask)
        self.metrics["uncertainty"].update(top_tenth(prediction.uncertainty))
        return prediction

    def on_validation_epoch_end(self) -> None:
        """The figures."""
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """The figures."""
        self._log_figures("test")

    def _log_figures(self, split: str) -> None:
        """Logs figures over all ranks: by the selected vote and protocol, and by the others."""
        self.confusions = {vote: self.metrics[vote].compute() for vote in VOTES}
        confusion = self.confusion()
        figures = {
            "miou": confusion.miou(self.protocol),
            "accuracy": confusion.accuracy,
            "uncertainty": self.metrics["uncertainty"].compute(),
            **{f"miou_{vote}": self.confusions[vote].miou(self.protocol) for vote in VOTES},
            **{f"miou_{protocol}": confusion.miou(protocol) for protocol in PROTOCOLS},
        }
        figures = {f"{split}/{name}": float(value) for name, value in figures.items()}
        self.log_dict(figures, sync_dist=True)  # equal on all ranks; without it Lightning warns
        for metric in self.metrics.values():
            metric.reset()

    def look(
        self, image: Float[Tensor, "3 height width"], maps: NativeMaps, folder: Path
    ) -> list[dict[str, str | float]]:
        """Segments one picture: writes files, and returns a row for each class in it."""
        if self.sae is not None:
            maps = CodedMaps(maps, load_dictionary(self.sae).sae.eval().to(self.device))
        prediction = self.predict(maps)
        labels, uncertainty = self.labels(prediction), prediction.uncertainty
        return draw_labels(image, labels, uncertainty, self.class_names, self.palette, folder)

    def tables(self) -> dict[str, list[dict[str, str | int | float]]]:
        """The last figures by class, and the steps and best loss of each member."""
        tables = {"members": self._members()}
        if self.confusions:
            tables["classes"] = self.confusion().table(self.class_names, self.protocol)
        return tables

    def _members(self) -> list[dict[str, str | int | float]]:
        columns = (self.number, self.net.steps, self.best)
        rows = sorted(zip(*(column.tolist() for column in columns), strict=True))
        return [{"member": i, "steps": steps, "best_loss": best} for i, steps, best in rows]

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Refuses to save weights that are not finite."""
        if not all(bool(x.isfinite().all()) for x in self.net.parameters()):
            what = f"The weights are no numbers after step {self.global_step}"
            stop_too_fast(self.trainer, what, self.rates.warmup_steps)
        checkpoint["ensemble"] = {**self.net.shape, "running": self.running}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restores which members are running."""
        self.running = checkpoint["ensemble"]["running"]

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """Refuses a checkpoint whose classifiers are of other features."""
        theirs, ours = content.get("ensemble"), self.net.shape
        if theirs is None:
            return  # of another task: loading its weights reports their shapes
        if differing := [key for key in ours if theirs[key] != ours[key]]:
            what = ", ".join(f"{key} {theirs[key]} there and {ours[key]} here" for key in differing)
            raise UserError(
                f"The classifiers in {path} are not for these features: {what}. Give the "
                f"dataset=, backbone=, timestep=, block= and model.* that they were learned with"
            )

    def classifier(self, row: int) -> dict[str, dict[str, Tensor]]:
        """The member in this row, in the format of the published files."""
        state = self.net.member(row)
        return {"model_state_dict": {f"module.{key}": x for key, x in state.items()}}

    # ------------------------------------------------------------------ optimizer

    def setup(self, stage: str) -> None:
        """Refuses trainer settings that this task does not support."""
        if stage != "fit":
            return
        if self.trainer.precision not in PRECISIONS:
            raise UserError(
                f"trainer.precision={self.trainer.precision} does not serve here: "
                f"it is one of {', '.join(PRECISIONS)}"
            )
        if self.trainer.gradient_clip_val is not None:
            raise UserError(
                "Members learn apart, and trainer.gradient_clip_val would clip all their gradients "
                "together: leave it null"
            )
        if self.trainer.accumulate_grad_batches != 1:
            raise UserError(
                "A member stops by its batches' losses, so a step is a batch: raise "
                "data.batch_size, not trainer.accumulate_grad_batches"
            )

    def configure_optimizers(self) -> dict:
        """The optimizer of the running members; its rate follows `decay`."""
        self._live = [self.net.first(self.running).train()]
        return self.rates.scheduled(self.optimizer, self._live[0].parameters(), self.trainer)

    def teardown(self, stage: str) -> None:
        """The shared memory may move after a run."""
        self._live = []


def _check(
    members: int,
    hidden: object,
    patience: int | None,
    patience_from: int,
    class_weights: str,
    vote: str,
) -> None:
    """Checks the settings."""
    if members < 1:
        raise UserError(f"model.members must be at least 1, got {members}: 10 are published")
    wide = hidden is None or (
        isinstance(hidden, Sequence)
        and len(hidden) > 0
        and all(type(width) is int and width > 0 for width in hidden)
    )
    if not wide:
        raise UserError(
            f"model.hidden holds widths of at least one layer, got {hidden!r}: [128,32], or null"
        )
    if patience_from < 0:
        raise UserError(f"model.patience_from counts epochs from 0, got {patience_from}: 0, say")
    if patience is not None and patience < 1:
        raise UserError(f"model.patience counts batches, or is null for no stop, got {patience}")
    for key, word, words in (
        ("class_weights", class_weights, WEIGHTS),
        ("vote", vote, VOTES),
    ):
        if word not in words:
            raise UserError(f"model.{key} is {', '.join(words)}, got {word!r}")
