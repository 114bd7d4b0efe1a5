"""What trainings of an encoder by two views of each picture share (SimCLR, SimSiam)."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone
from diffdict.errors import UserError
from diffdict.training.averaged import AveragedTraining
from diffdict.training.joint_optimizer import JointOptimizer
from diffdict.training.logs_now import logs_now
from diffdict.training.schedule import make_optimizer
from diffdict.training.views.view_heads import ViewHeads
from diffdict.training.views.view_losses import spread

LAST_SHARE = 0.1  # of the heads' rate, at the end of its cosine
FACTS = "two_views"  # of a checkpoint: what was learned, and how

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class TwoViewTraining(AveragedTraining):
    """Encoder and heads learn in `net`; `ema` holds their averages, which are judged and read.

    A checkpoint is a backbone as it is: backbone=code_encoder backbone.checkpoint=…/last.ckpt.
    """

    word: str  # of task=

    def __init__(
        self,
        encoder: CodeBackbone,
        heads: ViewHeads,
        optimizer: Optimizer,
        heads_optimizer: Optimizer,
        loss_weight: int | float = 0.01,
        image_size: int | None = None,
        ema_decay: float = 0.9999,
        ema_rule: str = "house",
        warmup_steps: int = 0,
        anneal_steps: int = 0,
        channels_last: bool = True,
        seed: int = 0,
    ) -> None:
        """`optimizer` of the encoder; that of the heads falls along a cosine to a tenth.

        `loss_weight` matters to the heads' SGD alone.
        """
        super().__init__(optimizer, ema_decay, ema_rule, warmup_steps, anneal_steps, seed)
        if not 0 < loss_weight < math.inf:
            raise UserError(f"model.loss_weight is above 0, got {loss_weight}: 0.01")
        if image_size is not None and image_size != encoder.image_size:
            raise UserError(
                f"{encoder.name} is of {encoder.image_size}×{encoder.image_size} pictures, got "
                f"{image_size}×{image_size}: dataset.image_size={encoder.image_size}"
            )
        if channels_last:
            encoder = encoder.to(memory_format=torch.channels_last)
        self.net = nn.ModuleDict({"encoder": encoder, "heads": heads}).train()
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.heads_optimizer, self.loss_weight = heads_optimizer, loss_weight
        self._end = math.inf

    def learning(self) -> list[nn.Module]:
        """Encoder and heads."""
        return [self.net]

    def averages(self) -> list[nn.Module]:
        """Theirs."""
        return [self.ema]

    def loss(self, net: nn.ModuleDict, batch: Mapping) -> tuple[Tensor, Float[Tensor, "n code"]]:
        """Of one batch of two views; and the codes of the first."""
        first, second = (net["encoder"](batch[side]) for side in ("image", "other"))
        return net["heads"](first, second), first

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """One batch of pictures."""
        loss, codes = self.loss(self.net, batch)
        self._window.count(len(codes))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(codes))
        if logs_now(self.trainer, self.global_step):
            self.log("train/spread", spread(codes), batch_size=len(codes))
        return self.loss_weight * loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        """The averages on fixed views."""
        self._judge("val", batch)

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """As validation, on pictures that no choice has seen."""
        self._judge("test", batch)

    def _judge(self, split: str, batch: Mapping) -> None:
        """A last batch too short to compare in counts for nothing."""
        if len(batch["image"]) < self.net["heads"].least_pictures:
            return
        loss, codes = self.loss(self.ema, batch)
        figures = {f"{split}/loss": loss, f"{split}/spread": spread(codes)}
        self.log_dict(figures, batch_size=len(codes), sync_dist=True)

    def configure_optimizers(self) -> dict:
        """One optimizer of each part, each with its own rate."""
        encoder, heads = self.net["encoder"].parameters(), self.net["heads"].parameters()
        joint = JointOptimizer(
            make_optimizer(self.optimizer, encoder), make_optimizer(self.heads_optimizer, heads)
        )
        self._end = self.trainer.estimated_stepping_batches
        if math.isinf(self._end):
            raise UserError(
                f"The rate of the heads of task={self.word} falls towards an end, and this run "
                "has none: trainer.max_steps= or trainer.max_epochs="
            )
        encoders, others = joint.group_counts
        shares = [lambda step: self.rate(step)] * encoders  # methods would be pickled
        shares += [lambda step: self.heads_rate(step)] * others
        schedule = torch.optim.lr_scheduler.LambdaLR(joint, shares)
        return {"optimizer": joint, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def heads_rate(self, step: int) -> float:
        """The share of the heads' rate at an optimizer step."""
        way = min(1.0, step / self._end)
        return LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * way)) / 2

    def facts(self) -> dict[str, object]:
        """What a run goes on with."""
        return {"task": self.word, "code": self.net["encoder"].shapes["code"][0]}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """With what was learned."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[FACTS] = self.facts()

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """Refuses to go on from another task's run."""
        theirs = content.get(FACTS)
        if theirs != self.facts():
            raise UserError(
                f"ckpt_path={path} is no run of task={self.word} with a code of "
                f"{self.facts()['code']}: give one that is, or start anew without ckpt_path="
            )
