"""`task=diffusion`: pre-trains a U-Net to tell noise from picture, and keeps its average.

Two copies of the network live here: `net`, which the optimizer moves, and `ema`, its running
average, which is judged, sampled and handed on. A checkpoint's `state_dict` holds both, as `net.…`
and `ema.…`; read as a backbone (`backbone.checkpoint=…/last.ckpt`) it gives the average.

Noise level, noise and augmentation belong to (seed, epoch, picture), not to a stream: a resumed
run, another batch size with accumulation, and another number of ranks see the same draws. What
dropout leaves out belongs to (seed, batch, rank): a resumed run leaves out the same.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.base import Backbone
from diffdict.backbones.denoiser import Denoiser, Given, check_denoiser
from diffdict.data.augment import Augment
from diffdict.diffusion.objectives import (
    Losses,
    Objective,
    check_objective,
    denoising_losses,
    quarter,
    spread_time,
)
from diffdict.errors import UserError
from diffdict.seeds import entropy
from diffdict.training.averaged import AveragedTraining
from diffdict.training.draws import AUGMENT, JUDGE, TRAIN, Draws, draw_noising, spread_shares
from diffdict.training.epoch import current_epoch
from diffdict.training.timestep_weights import SECOND_MOMENT, UNIFORM, make_timestep_weights

TIMESTEP = 17  # the family of draws by which weighted timesteps are chosen
REMEMBERED = "timestep_weights"  # below this a checkpoint holds what weighs them


class Exported(NamedTuple):
    """A network for others to use."""

    net: nn.Module
    facts: dict[str, str]


class Diffusion(AveragedTraining):
    """Denoising pre-training of any of our U-Nets (Ho et al. 2020; Nichol and Dhariwal 2021)."""

    def __init__(
        self,
        net: Backbone,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        objective: Objective,
        ema_decay: float = 0.9999,
        ema_rule: str = "house",
        warmup_steps: int = 0,
        anneal_steps: int = 0,
        augment: Augment | None = None,
        timesteps: str = "uniform",
        channels_last: bool = True,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        """`anneal_steps` > 0: the rate falls linearly to 0 at that step.

        `ema_rule`: how fast a young average forgets, until its decay has come to `ema_decay`.
        `augment`: changes the pictures, of which a network with `augment_dim` is told.
        `timesteps`: uniform, or loss_second_moment, which draws those of large losses more often.
        """
        super().__init__(optimizer, ema_decay, ema_rule, warmup_steps, anneal_steps, seed)
        check_denoiser(net, "there is nothing to denoise with")
        check_objective(objective, net.process)
        check_augment(augment, net)
        if channels_last:
            net = net.to(memory_format=torch.channels_last)
        self.net = net.requires_grad_(True).train()
        self.ema = copy.deepcopy(net).requires_grad_(False).eval()
        self.objective, self.augment = objective, augment
        self.timestep_weights = make_timestep_weights(timesteps, net.process)
        if compile:
            self.net.compile()

    def learning(self) -> list[nn.Module]:
        """The network that the optimizer moves."""
        return [self.net]

    def averages(self) -> list[nn.Module]:
        """Its average."""
        return [self.ema]

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """One batch: the mean loss of its pictures."""
        epoch, counts = current_epoch(self.trainer), 1
        t, noise = self.draw(batch, (TRAIN, epoch))
        if self.timestep_weights is not None:
            t, counts = self.timestep_weights.draw(self._shares(batch, epoch))
        if self.augment is not None:
            seeds = [entropy(self.seed, AUGMENT, epoch, index) for index in batch["index"].tolist()]
            images, labels = self.augment(batch["image"], seeds)
            batch = {**batch, "image": images, "augmentation": labels}
        self.seed_dropout()
        losses = self._losses(self.net, batch, t, noise).loss
        self._window.add(losses.detach(), quarter(self.objective, self.net.process, t))
        if self.timestep_weights is not None:
            self._remember(batch["index"], t, losses.detach())
        loss = (losses * counts).mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(losses))
        return loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        """The average network on fixed levels and noise, so that two epochs can be compared."""
        self._judge("val", batch)

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """As validation, on the pictures that no choice has seen."""
        self._judge("test", batch)

    def draw(self, batch: Mapping, family: tuple[int, int]) -> Draws:
        """Noise level and noise of every picture, from (seed, family, index) alone."""
        indices = batch["index"].tolist()
        words = self.seed, *family
        return draw_noising(batch["image"], indices, self.net.process, self.objective, *words)

    def _shares(self, batch: Mapping, epoch: int) -> Float[Tensor, " batch"]:
        """A share of [0, 1) for every picture, from (seed, epoch, index) alone."""
        generator, shares = torch.Generator(), []
        for index in batch["index"].tolist():
            generator.manual_seed(entropy(self.seed, TIMESTEP, epoch, index))
            shares.append(torch.rand((), generator=generator, dtype=torch.float64))
        return torch.stack(shares).to(batch["image"].device)

    def _remember(self, indices: Tensor, t: Tensor, losses: Tensor) -> None:
        """The losses of all ranks, in the pictures' order whoever has seen them."""
        if self.trainer.world_size > 1:
            indices, t, losses = (self.all_gather(x).flatten() for x in (indices, t, losses))
        order = indices.argsort()
        self.timestep_weights.update(t[order], losses[order])

    def given(self, net: Denoiser, batch: Mapping) -> Given:
        """What the network is told of a batch."""
        label = None if net.condition.classes is None else batch.get("label")
        return Given(label=label, augmentation=batch.get("augmentation"))

    def _losses(self, net: Denoiser, batch: Mapping, t: Tensor, noise: Tensor) -> Losses:
        given = self.given(net, batch)
        return denoising_losses(
            self.objective,
            net.process,
            lambda x_t, at: net(x_t, at, given),
            batch["image"],
            t,
            noise,
        )

    def _judge(self, split: str, batch: Mapping) -> tuple[Draws, Losses]:
        """Noise from the picture's index, noise levels evenly over those of training."""
        noise = self.draw(batch, (JUDGE, 0)).noise
        shares = spread_shares(batch["index"])
        t = spread_time(self.objective, self.ema.process, shares)
        losses = self._losses(self.ema, batch, t, noise)
        for name, values in (("loss", losses.loss), ("mse", losses.mse)):
            self.log(f"{split}/{name}", values.mean(), batch_size=len(t), sync_dist=True)
        return Draws(t, noise), losses

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """A run goes on drawing timesteps as it began."""
        theirs = any(key.startswith(f"{REMEMBERED}.") for key in content["state_dict"])
        if theirs != (self.timestep_weights is not None):
            before, now = (SECOND_MOMENT if one else UNIFORM for one in (theirs, not theirs))
            raise UserError(
                f"ckpt_path={path} was learned with model.timesteps={before}, here it is {now}: "
                f"resume with {before}, or start anew without ckpt_path="
            )

    def exported(self, average: nn.Module | None = None) -> Exported:
        """The network that is handed on, and what its file says of it beside its flags.

        `average`: another one than the task's own.
        """
        return Exported(self.ema if average is None else average, {})


def check_augment(augment: Augment | None, net: Denoiser) -> None:
    """What a network is not told of its pictures leaks into what it draws."""
    labels = 0 if augment is None else augment.labels
    if labels != net.augmentations:
        raise UserError(
            f"{net.name} is told {net.augmentations} labels of an augmentation, and model.augment "
            f"gives {labels}: say backbone.augment_dim={labels}, or "
            f"model.augment={'null' if labels else '{_target_: diffdict.data.augment.Augment}'}"
        )
