"""`task=deeplab`: DeepLabV3 (Chen et al. 2017), which learns from labelled synthetic sets.

What it has learned needs no diffusion model any more.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from diffdict.checkpoints import load_into
from diffdict.classifiers.deeplab import DeepLabV3
from diffdict.errors import UserError
from diffdict.metrics.segmentation import PROTOCOLS, Confusion, Segmentation, check_protocol
from diffdict.reports.segmentation.picture_labels import draw_labels
from diffdict.reports.subjects import SegmentedPicture
from diffdict.seeds import mix
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import stop_too_fast
from diffdict.training.schedule import Rates

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures in [0, 1]
HELP = 0.4  # what the auxiliary head's loss weighs (Zhao et al. 2017)
UNSEEN = -100  # no label: the loss of what is ignored, where nothing is


class DeepLab(pl.LightningModule):
    """Learns from masks alone; the epoch that validated best is tested (Baranchuk et al. 2022).

    Two copies of the network live here: `net`, which the optimizer moves, and `chosen`, as it was
    after that epoch: without validation pictures, after the last.
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        num_classes: int,
        class_names: Sequence[str] = (),
        palette: Sequence[Sequence[int]] = (),
        ignore_label: int | None = None,
        labelled: bool = True,
        *,
        depth: int = 101,
        width: int | float = 1,
        auxiliary: bool = False,
        checkpoint: str | None = None,
        learn_ignored: bool = False,
        warmup_steps: int = 0,
        decay: str = "none",
        decay_share: float = 1.0,
        protocol: str = "published",
        seed: int = 0,
    ) -> None:
        """`checkpoint`: weights to start from, in torchvision's names.

        `learn_ignored`: an ignored label that is a class is learned, only not measured.
        """
        super().__init__()
        if not labelled:
            raise UserError("task=deeplab learns from masks, and these pictures have none")
        check_protocol(protocol)
        net = DeepLabV3(depth, num_classes, auxiliary, width)
        self.net = net.to(memory_format=torch.channels_last)  # a fifth faster, on a CPU too
        if checkpoint is not None:
            load_into(self.net, checkpoint, ignore=() if auxiliary else ("aux_classifier.",))
        self.chosen = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.register_buffer("best", torch.tensor(-1.0))  # the chosen epoch's mIoU
        self.register_buffer("best_step", torch.tensor(0))  # … and at which step it ended
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        self.optimizer, self.protocol, self.seed = optimizer, protocol, seed
        self.class_names = list(class_names) or [str(i) for i in range(num_classes)]
        self.palette = palette
        learns_all = ignore_label is None or (learn_ignored and ignore_label < num_classes)
        self.unlearned = UNSEEN if learns_all else ignore_label
        self.rates = Rates(warmup_steps, 0, decay, decay_share, 0)
        self.metric = Segmentation(num_classes, ignore_label)
        self.found: Confusion | None = None

    def train(self, mode: bool = True) -> "DeepLab":
        """What was chosen stays as it is."""
        super().train(mode)
        self.chosen.eval()
        return self

    # ------------------------------------------------------------------ a step

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """A batch: the mean cross-entropy of its labelled pixels."""
        if len(batch["image"]) < 2:
            raise UserError(
                "DeepLabV3 normalises one value a picture over the batch, so a batch has two or "
                "more: raise data.batch_size, and leave data.drop_last=true"
            )
        # dropout follows from seed, step and rank: a resumed run draws what a straight one does
        torch.manual_seed(mix(self.seed, self.global_step, self.global_rank))
        logits = self.net.both(self._normal(batch["image"]))
        loss = self._loss(logits.classes, batch["mask"])
        if logits.auxiliary is not None:
            loss = loss + HELP * self._loss(logits.auxiliary, batch["mask"])
        self._log_batch(loss.detach())
        return loss

    def _normal(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        return ((images + 1) / 2 - self.mean) / self.deviation

    def _loss(
        self, logits: Float[Tensor, "batch classes h w"], labels: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, ""]:
        ignored, logits = self.unlearned, logits.float()
        total = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
        return total / (labels != ignored).sum().clamp(min=1)

    def _log_batch(self, loss: Float[Tensor, ""]) -> None:
        if not logs_now(self.trainer, self.global_step):
            return
        if not loss.isfinite():
            what = f"The loss is no number at step {self.global_step}"
            stop_too_fast(self.trainer, what, self.rates.warmup_steps)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    # ------------------------------------------------------------------ what it is worth

    @torch.no_grad()
    def segment(
        self, net: DeepLabV3, images: Float[Tensor, "batch 3 height width"]
    ) -> Int64[Tensor, "batch height width"]:
        """The label of every pixel."""
        return net(self._normal(images)).argmax(1)

    @torch.no_grad()
    def shares(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes height width"]:
        """How sure the chosen network is of every class at every pixel; they sum to 1."""
        return self.chosen(self._normal(images)).softmax(1)

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        """Pictures to choose by."""
        self.metric.update(self.segment(self.net, batch["image"]), batch["mask"])

    def test_step(self, batch: Mapping, batch_idx: int) -> dict[str, Tensor]:
        """Pictures that no choice has seen."""
        labels = self.segment(self.chosen, batch["image"])
        self.metric.update(labels, batch["mask"])
        return {"mask": labels}

    def segmented(self, outputs: Mapping, batch: Mapping) -> list[SegmentedPicture]:
        """Each picture of a test batch; one network has no uncertainty."""
        pictures = zip(batch["index"].tolist(), batch["mask"], outputs["mask"], strict=True)
        return [SegmentedPicture(*one, None) for one in pictures]

    def confusion(self) -> Confusion:
        """Of the last test."""
        return self.found

    def on_validation_epoch_end(self) -> None:
        """The figures; the first of the best epochs is chosen."""
        figures = self._figures()
        if figures["miou"] > self.best:
            self._choose(figures["miou"])
        figures |= {"best_miou": float(self.best), "best_step": float(self.best_step)}
        self._log_figures("val", figures)

    def on_test_epoch_end(self) -> None:
        """The figures."""
        self._log_figures("test", self._figures())

    def on_train_epoch_end(self) -> None:
        """Without a validation the last epoch is the chosen one."""
        if self.best < 0:
            self._choose(-1.0)

    def _choose(self, miou: float) -> None:
        """The network as it is now."""
        self.chosen.load_state_dict(self.net.state_dict())
        self.best.fill_(miou)
        self.best_step.fill_(self.global_step)

    def _figures(self) -> dict[str, float]:
        """Of all pictures on all ranks, by the protocol chosen and by both."""
        self.found = self.metric.compute()
        self.metric.reset()
        figures = {"miou": self.found.miou(self.protocol), "accuracy": self.found.accuracy}
        return figures | {f"miou_{word}": self.found.miou(word) for word in PROTOCOLS}

    def _log_figures(self, split: str, figures: Mapping[str, float]) -> None:
        """They are the same on all ranks."""
        metrics = {f"{split}/{name}": value for name, value in figures.items()}
        self.log_dict(metrics, sync_dist=True)

    @torch.no_grad()
    def look(
        self, image: Float[Tensor, "3 height width"], folder: Path
    ) -> list[dict[str, str | float]]:
        """What the network makes of one picture: files, and a row for each class in it.

        Its uncertainty is the entropy of what it says of a pixel.
        """
        shares = self.shares(image[None])[0]
        doubt = torch.special.entr(shares).sum(0)
        maps = image, shares.argmax(0), doubt
        return draw_labels(*maps, self.class_names, self.palette, folder)

    def tables(self) -> dict[str, list[dict[str, str | int | float]]]:
        """Figures by class as they were last measured."""
        return {"classes": self.found.table(self.class_names, self.protocol)} if self.found else {}

    # ------------------------------------------------------------------ rates

    def configure_optimizers(self) -> dict:
        """The optimizer over the moving weights; its rate as `decay` says."""
        return self.rates.scheduled(self.optimizer, self.net.parameters(), self.trainer)
