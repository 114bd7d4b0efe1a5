"""`task=diffusion`: pre-trains a U-Net to tell noise from picture, and keeps its average.

Two copies of the network live here: `net`, which the optimizer moves, and `ema`, its running
average, which is judged, sampled and handed on. A checkpoint's `state_dict` holds both, as `net.…`
and `ema.…`; read as a backbone (`backbone.checkpoint=…/last.ckpt`) it gives the average.

Timestep and noise belong to (seed, epoch, picture), not to a stream: a resumed run, another batch
size with accumulation, and another number of ranks see the same draws.
"""

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.diffusion.objectives import Losses, Objective, training_losses
from diffdict.diffusion.schedules import q_sample
from diffdict.errors import UserError
from diffdict.tasks.divergence import stop_too_fast
from diffdict.tasks.rates import check_steps, make_optimizer

GOLDEN_RATIO = 0.6180339887498949  # frac(i × this) covers [0, 1) evenly for every number of i
TRAIN, JUDGE = 0, 1  # which family of draws a seed opens


class Draws(NamedTuple):
    """What happens to a batch of pictures."""

    t: Int[Tensor, " batch"]  # timesteps
    noise: Float[Tensor, "batch channels height width"]


class Window:
    """Losses by quarter of the chain, and pictures a second, since the last flush."""

    def __init__(self, device: torch.device | str) -> None:
        self.sums, self.counts = torch.zeros(2, 4, device=device)
        self.since = time.perf_counter()

    def add(self, losses: Float[Tensor, " batch"], quarters: Int[Tensor, " batch"]) -> None:
        """One batch; everything stays on the device."""
        self.sums.index_add_(0, quarters, losses.float())
        self.counts.index_add_(0, quarters, torch.ones_like(losses, dtype=torch.float32))

    def flush(self, ranks: int) -> dict[str, float]:
        """The means of the quarters that were met and the rate; then everything from zero."""
        sums, counts = self.sums.tolist(), self.counts.tolist()
        rate = ranks * sum(counts) / (time.perf_counter() - self.since)
        self.__init__(self.sums.device)
        met = {
            f"loss_q{q + 1}": s / n for q, (s, n) in enumerate(zip(sums, counts, strict=True)) if n
        }
        return met | {"images_per_s": rate}


class Diffusion(pl.LightningModule):
    """Denoising pre-training of any of our U-Nets (Ho et al. 2020; Nichol and Dhariwal 2021)."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        objective: Objective,
        ema_decay: float = 0.9999,
        warmup_steps: int = 0,
        anneal_steps: int = 0,
        channels_last: bool = True,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        """`anneal_steps` > 0: the rate falls linearly to 0 at that step."""
        super().__init__()
        if net.num_timesteps is None:
            raise UserError(
                f"{net.name} is no diffusion network, there is nothing to denoise with: "
                "backbone=guided_unet or backbone=toy_ddpm"
            )
        if not 0 <= ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {ema_decay}. Try 0.999 or 0.9999.")
        check_steps(warmup_steps=warmup_steps, anneal_steps=anneal_steps)
        if channels_last:
            net = net.to(memory_format=torch.channels_last)
        self.net = net.requires_grad_(True).train()
        self.ema = copy.deepcopy(net).requires_grad_(False).eval()
        self.optimizer, self.objective, self.seed = optimizer, objective, seed
        self.ema_decay, self.warmup_steps, self.anneal_steps = ema_decay, warmup_steps, anneal_steps
        if compile:
            self.net.compile()
        self._window = Window("cpu")

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """One batch: the mean loss of its pictures."""
        t, noise = self.draw(batch, (TRAIN, self._epoch()))
        losses = self._losses(self.net, batch, t, noise).loss
        self._window.add(losses.detach(), t * 4 // self.net.schedule.steps)
        loss = losses.mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(losses))
        return loss

    def _epoch(self) -> int:
        """How often the stream of pictures has come round: known from the batches trained on."""
        batches = self.trainer.fit_loop.epoch_loop.total_batch_idx
        return batches // len(self.trainer.train_dataloader)

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        """The average network on fixed timesteps and noise, so that two epochs can be compared."""
        self._judge("val", batch)

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """As validation, on the pictures that no choice has seen."""
        self._judge("test", batch)

    def draw(self, batch: Mapping, family: tuple[int, int]) -> Draws:
        """Timestep and noise of every picture, from (seed, family, index) alone."""
        images, steps = batch["image"], self.net.schedule.steps
        generator = torch.Generator(images.device)
        t, noise = [], []
        for index in batch["index"].tolist():
            entropy = np.random.SeedSequence((self.seed, *family, index))
            generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)
            t.append(torch.randint(steps, (), generator=generator, device=images.device))
            noise.append(torch.randn(images.shape[1:], generator=generator, device=images.device))
        return Draws(torch.stack(t), torch.stack(noise))

    def _losses(self, net: nn.Module, batch: Mapping, t: Tensor, noise: Tensor) -> Losses:
        x0, schedule = batch["image"], net.schedule
        x_t = q_sample(schedule, x0, t, noise)
        labels = () if net.label_emb is None else (batch["label"],)
        output = net(x_t, schedule.timesteps.to(t.device)[t], *labels)
        return training_losses(self.objective, schedule, output.float(), x0, x_t, t, noise)

    def _judge(self, split: str, batch: Mapping) -> None:
        """Noise from the picture's index, timesteps evenly over the chain."""
        noise = self.draw(batch, (JUDGE, 0)).noise
        t = (batch["index"].double() * GOLDEN_RATIO % 1 * self.ema.schedule.steps).long()
        losses = self._losses(self.ema, batch, t, noise)
        for name, values in (("loss", losses.loss), ("mse", losses.mse)):
            self.log(f"{split}/{name}", values.mean(), batch_size=len(t), sync_dist=True)

    def on_train_start(self) -> None:
        """The clock starts with the first batch, not with the process."""
        self._window = Window(self.device)

    def on_validation_end(self) -> None:
        """Judging is no training: it leaves the rate alone."""
        self._window = Window(self.device)

    def optimizer_step(self, *args, **kwargs) -> None:
        """A step of the optimizer and one of the average, before any callback can save either."""
        super().optimizer_step(*args, **kwargs)
        update_average(self.ema, self.net, average_decay(self.ema_decay, self.global_step))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The gradient's norm before clipping, and what the window since the last log has seen."""
        if (self.global_step + 1) % self.trainer.log_every_n_steps:
            return
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        self.log("train/grad_norm", nn.utils.get_total_norm(gradients))
        seen = self._window.flush(self.trainer.world_size)
        self.log("train/images_per_s", seen.pop("images_per_s"), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in seen.items()})

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Nothing that is no number is ever saved."""
        if not all(
            bool(x.isfinite().all()) for x in (*self.net.parameters(), *self.ema.parameters())
        ):
            what = f"The weights are no numbers after step {self.global_step}"
            stop_too_fast(self.trainer, what, self.warmup_steps)

    def configure_optimizers(self) -> dict:
        """The optimizer over the moving weights; warm-up, then constant or linear to zero."""
        optimizer = make_optimizer(self.optimizer, self.net.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The share of the learning rate at an optimizer step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * max(0.0, 1 - step / self.anneal_steps) if self.anneal_steps else warm


def average_decay(decay: float, step: int) -> float:
    """The decay at an optimizer step, counted from 0: young averages forget faster."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, moving: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 − decay) · moving; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(moving.parameters()), 1 - decay)
    for mine, its in zip(average.buffers(), moving.buffers(), strict=True):
        mine.copy_(its)
