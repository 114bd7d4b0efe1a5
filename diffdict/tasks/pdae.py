"""`task=pdae`: learns a code of what noise takes from a frozen diffusion network (PDAE, DiTi).

The frozen network lives here once, in `net`, and never changes; encoder and shift half live twice,
in `net`, which the optimizer moves, and as averages in `ema`, which are judged, drawn with and
handed on. Read as a backbone (`backbone=pdae backbone.checkpoint=…/last.ckpt`) a checkpoint gives
the frozen network with the averages.

Noise level and noise belong to (seed, epoch, picture), as in task=diffusion.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict import checkpoints, files
from diffdict.backbones.autoencoders.code_backbone import CodeBackbone, Parts
from diffdict.backbones.base import Backbone, weights_sha256
from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.objectives import Objective, quarter, spread_time
from diffdict.diffusion.segments import MODES
from diffdict.diffusion.shift import error_weight, noise_losses
from diffdict.errors import UserError
from diffdict.metrics.losses.gap import GapSums, gap_places, timestep_rows
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.samples.autoencoding_sheet import autoencoding_sheet
from diffdict.results.tables import Cell, Row
from diffdict.training.autoencoding import Autoencoding
from diffdict.training.averaged import AveragedTraining
from diffdict.training.draws import JUDGE, TRAIN, draw_noising, spread_shares
from diffdict.training.epoch import current_epoch
from diffdict.training.logs_now import logs_now

CHAIN = Objective()  # by which positions of a chain are drawn: each as often


class GapLosses(NamedTuple):
    """One value a picture."""

    filled: Float[Tensor, " batch"]  # with its code
    frozen: Float[Tensor, " batch"]  # of the frozen network alone


class PdaeTraining(AveragedTraining):
    """A code that fills the gap of a frozen network (Zhang et al. 2022; DiTi: Yue et al. 2024)."""

    def __init__(
        self,
        net: Backbone,
        encoder: CodeBackbone,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        segments: Parts = None,
        mode: str = "base",
        shift: str = "gradient",
        weight: str = "gap",
        start: str | None = None,
        autoencode: Autoencoding | None = None,
        image_size: int | None = None,
        ema_decay: float = 0.9999,
        ema_rule: str = "house",
        warmup_steps: int = 0,
        anneal_steps: int = 0,
        channels_last: bool = True,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        """`net` is the frozen network. `segments`: null is PDAE. `start`: a run to go on from.

        `mode`: which entries of a code learn from a timestep's loss: all that are open, those that
        its segment adds, or both at once. `weight`: of the squared error at each timestep.
        `autoencode`: how a test draws pictures again; None does not.
        """
        super().__init__(optimizer, ema_decay, ema_rule, warmup_steps, anneal_steps, seed)
        check_mode(mode, segments)
        check_side(net, image_size)
        code = encoder.shapes["code"][0]
        pdae = Pdae(net, encoder, code, segments=segments, shift=shift)
        check_trained(pdae)
        self.frozen_sha256 = weights_sha256(net)
        if channels_last:
            pdae = pdae.to(memory_format=torch.channels_last)
        self.net = pdae.train()
        self.ema = nn.ModuleDict(
            {"encoder": copy.deepcopy(pdae.encoder), "shift": copy.deepcopy(pdae.shift)}
        )
        self.ema.requires_grad_(False).eval()
        self.process, self.mode, self.weight, self.start = net.process, mode, weight, start
        self.autoencode, self._autoencoded = autoencode, []
        if autoencode is not None:
            autoencode.leave_out_small(net.image_size)
        self.table = error_weight(net.process, net.predict, weight)
        stages = None if pdae.segments is None else pdae.segments.stages
        self.places = gap_places(net.num_timesteps, stages)
        self._sums = {split: GapSums(net.num_timesteps) for split in ("train", "val", "test")}
        self._shares = GapSums(net.num_timesteps)  # since the last log
        self._average = (pdae.with_halves(self.ema["encoder"], self.ema["shift"]),)
        if compile:
            self.net.compile()
            self.net.encoder.compile()

    def learning(self) -> list[nn.Module]:
        """Encoder and shift half."""
        return [self.net.encoder, self.net.shift]

    def averages(self) -> list[nn.Module]:
        """Theirs; the frozen network needs none."""
        return [self.ema["encoder"], self.ema["shift"]]

    def pdae(self) -> Pdae:
        """The averages around the same frozen network."""
        return self._average[0]

    def setup(self, stage: str) -> None:
        """Takes the weights of another run, unless this one goes on itself."""
        if stage == "fit" and self.start is not None and self.trainer.ckpt_path is None:
            start_from(self.start, self.net, self.ema)

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """One batch: the mean loss of its pictures, twice of it where it stands for both modes."""
        images, indices = batch["image"], batch["index"].tolist()
        words = self.seed, TRAIN, current_epoch(self.trainer)
        t, noise = draw_noising(images, indices, self.process, CHAIN, *words)
        self.seed_dropout()
        codes = self.net.codes(images)
        losses = self.losses(self.net, images, t, noise, codes, self.mode)
        for sums in (self._sums["train"], self._shares):
            sums.add(t, *losses)
        self._window.add(losses.filled.detach(), quarter(CHAIN, self.process, t))
        loss = losses.filled.mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(t))
        return 2 * loss if self.mode == "dual" else loss

    def losses(
        self,
        net: Pdae,
        images: Float[Tensor, "batch 3 size size"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, "batch 3 size size"],
        codes: Float[Tensor, "batch code"],
        mode: str = "base",
    ) -> GapLosses:
        """What is left of the gap at positions t, and the whole of it, from one pass."""
        x_t = self.process.noised(images, t, noise)
        timesteps = self.process.timesteps.to(t.device)[t]
        denoised = net.denoise(x_t, timesteps, net.opened(codes, timesteps, mode))
        eps = net.posterior_eps(denoised, timesteps)
        filled = noise_losses(self.table, noise, eps.float(), t)
        with torch.no_grad():
            return GapLosses(filled, noise_losses(self.table, noise, denoised.eps.float(), t))

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        """The averages on fixed levels and noise, so that two epochs can be compared."""
        self._judge("val", batch)

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """As validation, on the pictures that no choice has seen."""
        self._judge("test", batch)
        if self.autoencode is not None:
            self.autoencode.add(self.pdae(), batch["image"], batch["index"])

    def _judge(self, split: str, batch: Mapping) -> None:
        """Noise from the picture's index, timesteps evenly; then with the next picture's code."""
        images, net = batch["image"], self.pdae()
        words = self.seed, JUDGE, 0
        noise = draw_noising(images, batch["index"].tolist(), self.process, CHAIN, *words).noise
        t = spread_time(CHAIN, self.process, spread_shares(batch["index"]))
        codes = net.codes(images)
        losses, exchanged = self.losses(net, images, t, noise, codes), None
        if len(images) > 1:
            exchanged = self.losses(net, images, t, noise, codes.roll(-1, 0)).filled
        self._sums[split].add(t, *losses, exchanged)

    def on_train_start(self) -> None:
        """Sums lie where the pictures do."""
        super().on_train_start()
        self._move_sums("train")
        self._shares = GapSums(self.process.steps, self.device)

    def on_validation_epoch_start(self) -> None:
        """From zero."""
        self._sums["val"] = GapSums(self.process.steps, self.device)

    def on_test_epoch_start(self) -> None:
        """From zero."""
        self._sums["test"] = GapSums(self.process.steps, self.device)
        if self.autoencode is not None:
            self.autoencode.reset()

    def on_validation_epoch_end(self) -> None:
        """Loss and shares over all ranks."""
        self._log_judged("val")

    def on_test_epoch_end(self) -> None:
        """Loss and shares over all ranks."""
        self._log_judged("test")
        if self.autoencode is not None:
            self._autoencoded = self.autoencode.rows(self._summed)
        for row in self._autoencoded:
            names = self.autoencode.measures
            figures = {f"test/{name}_{row['noise']}": row[name] for name in names}
            self.log_dict(figures)

    def _log_judged(self, split: str) -> None:
        sums = self._sums[split] = self._of_all_ranks(self._sums[split])
        figures = {"loss": sums.loss(), **sums.shares(self.places)}
        self.log_dict({f"{split}/{name}": value for name, value in figures.items()})

    def _of_all_ranks(self, sums: GapSums) -> GapSums:
        """A copy, summed over the ranks."""
        whole = GapSums(self.process.steps)
        whole.sums = self._summed(sums.sums)
        return whole

    def _summed(self, values: Tensor) -> Tensor:
        if self.device.type == "mps":  # which has no float64
            values = values.float()
        values = values.to(self.device, copy=True)
        return self.trainer.strategy.reduce(values, reduce_op="sum").cpu()

    def _move_sums(self, split: str) -> None:
        moved = GapSums(self.process.steps, self.device)
        moved.sums += self._sums[split].sums.to(moved.sums)
        self._sums[split] = moved

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Of the pictures since the last log also the share of the gap that is filled."""
        super().on_before_optimizer_step(optimizer)
        if logs_now(self.trainer, self.global_step):
            shares = self._of_all_ranks(self._shares).shares(self.places)
            self.log_dict({f"train/{name}": value for name, value in shares.items()})
            self._shares = GapSums(self.process.steps, self.device)

    def look(
        self, image: Float[Tensor, "3 height width"], *, folder: Path
    ) -> list[Mapping[str, Cell]]:
        """Draws one picture again, and others with its code."""
        settings = self.autoencode or Autoencoding()
        test = Autoencoding(1, settings.inversion, settings.sampling, settings.seed)
        test.leave_out_small(self.net.image_size)
        test.add(self.pdae(), image[None], torch.tensor([0], device=image.device))
        sheet = autoencoding_sheet(
            self.pdae(), image[None], respacing=settings.sampling, seed=settings.seed
        )
        write_png(sheet, files.writable_folder(folder) / "autoencoding.png")
        keys = ("noise", *test.measures)
        return [{key: row[key] for key in keys} for row in test.rows(lambda sums: sums)]

    def tables(self) -> dict[str, list[Row]]:
        """Losses and share filled at every timestep, and how pictures were drawn again."""
        splits = {name: sums.sums.cpu() for name, sums in self._sums.items() if name != "val"}
        met = {name: sums for name, sums in splits.items() if bool(sums.any())}
        tables = {"timesteps": timestep_rows(met)} if met else {}
        return tables | ({"autoencoding": self._autoencoded} if self._autoencoded else {})

    def on_train_end(self) -> None:
        """What all ranks have met."""
        self._sums["train"] = self._of_all_ranks(self._sums["train"])

    def facts(self) -> dict[str, object]:
        """What a checkpoint says of its network, so that nothing is typed twice."""
        segments = self.net.segments
        return {
            "denoiser": self.net.denoiser.settings,
            "denoiser_sha256": self.frozen_sha256,
            "code": self.net.shapes["code"][0],
            "segments": None if segments is None else as_lists(asdict(segments)),
            "shift": self.net.shift_output,
            "mode": self.mode,
            "weight": self.weight,
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """With the network's facts, and the sums of all ranks so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[checkpoints.PDAE_FACTS] = self.facts()
        checkpoint["gap_sums"] = self._of_all_ranks(self._sums["train"]).sums.cpu()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """The sums go on in the first rank; the others begin at zero."""
        if self.global_rank == 0:
            self._sums["train"].sums = checkpoint["gap_sums"]

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """Refuses to go on from a run whose loss was another."""
        theirs, ours = content.get(checkpoints.PDAE_FACTS), self.facts()
        if theirs is None:
            raise UserError(f"ckpt_path={path} is no run of task=pdae: give one that is")
        for key, value in ours.items():
            if theirs.get(key) != value:
                before, now = shortened(theirs.get(key)), shortened(value)
                raise UserError(
                    f"ckpt_path={path} was learned with {key}={before}, here it is {now}: resume "
                    "with what it was started with, or begin a run from its weights with "
                    f"model.start={path}"
                )


def check_mode(mode: str, segments: Parts) -> None:
    """What learns from a timestep's loss, if the code has such parts."""
    if mode not in MODES:
        raise UserError(f"model.mode is one of {', '.join(MODES)}, got {mode!r}: base is usual")
    if mode != "base" and segments is None:
        raise UserError(
            f"model.mode={mode} says which segments learn, and model.segments=null has none: "
            "model.mode=base, or model.segments={number: 64}"
        )


def check_side(net: Backbone, image_size: int | None) -> None:
    """The pictures of the data, where it is known what they are, are those of the network."""
    if image_size is not None and image_size != net.image_size:
        raise UserError(
            f"{net.name} is of {net.image_size}×{net.image_size} pictures, got "
            f"{image_size}×{image_size}: dataset.image_size={net.image_size}"
        )


def check_trained(pdae: Pdae) -> None:
    """A network that predicts nothing has no gap to fill: its last layer begins as zero."""
    if not bool(pdae.denoiser.out[2].weight.any()):
        raise UserError(
            f"{pdae.denoiser.name} has fresh weights, and there is no gap to fill before it has "
            "learned to denoise: backbone.checkpoint=FILE, or backbone=toy_ddpm"
        )


def start_from(checkpoint: str, net: Pdae, ema: nn.ModuleDict) -> None:
    """Encoder and shift half of another run or a published file, over the same frozen network."""
    weights = checkpoints.load_state_dict(checkpoint)
    halves: dict[str, dict[str, Tensor]] = {"encoder": {}, "shift": {}, "denoiser": {}}
    for key, value in weights.state.items():
        half, _, rest = key.partition(".")
        halves.setdefault(half, {})[rest] = value
    if not halves["encoder"] or not halves["shift"]:
        raise UserError(
            f"model.start={checkpoint} holds no encoder and shift half: give a run of task=pdae, "
            "or a file of PDAE's or DiTi's"
        )
    frozen = net.denoiser.state_dict()
    same = frozen.keys() == halves["denoiser"].keys() and all(
        torch.equal(value, frozen[key].cpu()) for key, value in halves["denoiser"].items()
    )
    if not same:
        raise UserError(
            f"model.start={checkpoint} was learned over another frozen network than "
            f"{net.denoiser.name}: give the backbone.checkpoint= that it was learned with"
        )
    for name in ("encoder", "shift"):
        for half in (getattr(net, name), ema[name]):
            checkpoints.load_strictly(half, halves[name], weights.path)


def as_lists(settings: Mapping[str, object]) -> dict[str, object]:
    """Tuples as lists, as configs write them."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
    }


def shortened(value: object) -> str:
    """A fact in a sentence."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
