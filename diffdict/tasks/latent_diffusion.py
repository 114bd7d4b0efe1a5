"""`task=latent_diffusion`: learns to draw codes, from which pictures can be drawn without a source.

Codes are normalised by the training pictures' mean and deviation, noised along a chain of constant
betas, and the noise is told by an MLP under an L1 loss (Preechakul et al. 2022; Zhang et al. 2022).
Timestep and noise of a code belong to (seed, epoch, picture): a resumed run sees the same draws.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.backbones.latent_mlp import LatentMLP
from diffdict.diffusion.schedules import make_schedule, q_sample
from diffdict.errors import UserError
from diffdict.features.code_batches import CodeBatch
from diffdict.seeds import entropy
from diffdict.training.average import AVERAGES, average_decay, update_average
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import stop_too_fast
from diffdict.training.schedule import check_steps, make_optimizer

TRAIN, JUDGE = range(2)  # which family of draws a seed opens
GOLDEN_RATIO = 0.6180339887498949  # frac(i × this) covers [0, 1) evenly for every number of i


class LatentDiffusion(pl.LightningModule):
    """A moving network and its average; mean and deviation of the codes are kept beside them."""

    def __init__(
        self,
        net: Callable[[int], LatentMLP],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        code: int,
        code_mean: Float[Tensor, " code"],
        code_std: Float[Tensor, " code"],
        backbone: str,
        backbone_sha256: str,
        steps: int = 1000,
        ema_decay: float | int = 0.9999,
        ema_rule: str = "house",
        warmup_steps: int = 0,
        anneal_steps: int = 0,
        seed: int = 0,
    ) -> None:
        """`backbone` and its hash: whose codes these are. `anneal_steps` > 0: the rate falls to 0.

        `ema_rule`: how fast a young average forgets, until its decay has come to `ema_decay`.
        """
        super().__init__()
        if ema_rule not in AVERAGES:
            raise UserError(f"ema_rule is one of {', '.join(AVERAGES)}, got {ema_rule!r}")
        if not 0 <= ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {ema_decay}. Try 0.999 or 0.9999.")
        check_steps(warmup_steps=warmup_steps, anneal_steps=anneal_steps)
        constant = code_std <= 0
        if constant.all():
            raise UserError(
                f"All codes of {backbone} are alike, so there is nothing to draw: give more "
                "pictures, or an encoder that has learned"
            )
        self.chain = make_schedule("constant", steps)
        self.net = net(code).train()
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.register_buffer("code_mean", torch.as_tensor(code_mean).clone())
        # an entry that never changes stays what it is
        self.register_buffer("code_std", torch.where(constant, 1.0, torch.as_tensor(code_std)))
        self.optimizer, self.seed = optimizer, seed
        self.backbone, self.backbone_sha256 = backbone, backbone_sha256
        self.ema_decay, self.ema_rule = ema_decay, ema_rule
        self.warmup_steps, self.anneal_steps = warmup_steps, anneal_steps
        self._drops = self.net.layers[0].dropout.p > 0

    def draw(
        self, batch: CodeBatch, family: tuple[int, int]
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch code"]]:
        """Timestep and noise of every code, from (seed, family, picture) alone."""
        generator, t, noise = torch.Generator(), [], []
        for index in batch.index.tolist():
            generator.manual_seed(entropy(self.seed, *family, index))
            t.append(torch.randint(self.chain.steps, (), generator=generator))
            noise.append(torch.randn(batch.codes.shape[1], generator=generator))
        device = batch.codes.device
        return torch.stack(t).to(device), torch.stack(noise).to(device)

    def losses(
        self,
        net: LatentMLP,
        codes: Float[Tensor, "batch code"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, "batch code"],
    ) -> Float[Tensor, " batch"]:
        """The mean absolute error of the noise, one value a code."""
        normal = (codes - self.code_mean) / self.code_std
        return (noise - net(q_sample(self.chain, normal, t, noise), t)).abs().mean(1)

    def training_step(self, batch: CodeBatch, batch_idx: int) -> Tensor:
        """One batch of codes."""
        batches = self.trainer.fit_loop.epoch_loop.total_batch_idx
        epoch = batches // len(self.trainer.train_dataloader)
        if self._drops:
            torch.manual_seed(entropy(self.seed, batches, self.global_rank))
        t, noise = self.draw(batch, (TRAIN, epoch))
        loss = self.losses(self.net, batch.codes, t, noise).mean()
        if logs_now(self.trainer, self.global_step):
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(t))
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: CodeBatch, batch_idx: int) -> None:
        """The average network on fixed timesteps and noise."""
        self._judge("val", batch)

    def test_step(self, batch: CodeBatch, batch_idx: int) -> None:
        """As validation, on pictures that no choice has seen."""
        self._judge("test", batch)

    def _judge(self, split: str, batch: CodeBatch) -> None:
        """Noise from the picture's index, timesteps evenly over the chain."""
        noise = self.draw(batch, (JUDGE, 0))[1]
        t = (batch.index.double() * GOLDEN_RATIO % 1 * self.chain.steps).long()
        loss = self.losses(self.ema, batch.codes, t, noise).mean()
        self.log(f"{split}/loss", loss, batch_size=len(t), sync_dist=True)

    def optimizer_step(self, *args, **kwargs) -> None:
        """A step of the optimizer and one of the average, before any callback can save either."""
        super().optimizer_step(*args, **kwargs)
        decay = average_decay(self.ema_decay, self.global_step, self.ema_rule)
        update_average(self.ema, self.net, decay)

    def configure_optimizers(self) -> dict:
        """The optimizer over the moving weights; warm-up, then constant or linear to zero."""
        optimizer = make_optimizer(self.optimizer, self.net.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The share of the learning rate at an optimizer step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * max(0.0, 1 - step / self.anneal_steps) if self.anneal_steps else warm

    @property
    def described(self) -> dict[str, object]:
        """Whose codes are drawn, and by what network, in plain values."""
        net = self.net
        return {
            "backbone": self.backbone,
            "backbone_sha256": self.backbone_sha256,
            "code": net.code,
            "width": net.layers[0].linear.out_features,
            "layers": len(net.layers),
            "time_width": net.time_width,
            "norm": isinstance(net.layers[0].norm, nn.LayerNorm),
            "steps": self.chain.steps,
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """With the weights what they are; nothing that is no number is ever saved."""
        if not all(bool(x.isfinite().all()) for x in self.parameters()):
            what = f"The weights are no numbers after step {self.global_step}"
            stop_too_fast(self.trainer, what, self.warmup_steps)
        checkpoint["latent_diffusion"] = self.described

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """A run goes on with the codes that it began with."""
        theirs, ours = content.get("latent_diffusion"), self.described
        for key, value in ours.items() if isinstance(theirs, Mapping) else ():
            if theirs.get(key) != value:
                raise UserError(
                    f"ckpt_path={path} was learned with {key}={theirs.get(key)}, here it is "
                    f"{value}: resume with {theirs.get(key)}, or start anew without ckpt_path="
                )
