"""`task=sae`: trains dictionaries on the features of a backbone; several on one stream of tokens.

One optimizer updates all of them, with a parameter group for each. Nothing else is shared: every
dictionary has its own clipping, dead latents and average, and learns as it would alone.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from diffdict.bilinear.maps import NativeMaps
from diffdict.checkpoints import save_whole
from diffdict.errors import UserError
from diffdict.features.tokens.moments import off_centre
from diffdict.features.whole_pictures import LabelledPicture
from diffdict.metrics.concepts.findings import Cell, Findings, findings_tables
from diffdict.metrics.features.timestep_parts import timestep_parts
from diffdict.metrics.sparsity import Sparsity, coherence
from diffdict.reports.concepts.picture_concepts import draw_concepts
from diffdict.reports.subjects import MeasuredDictionary
from diffdict.sae.base import Output
from diffdict.sae.grid import ALONE, expand_grid
from diffdict.seeds import mix
from diffdict.tasks.concepts import ConceptTest, check_concepts, print_findings
from diffdict.training.average import average_decay, update_average
from diffdict.training.logs_now import logs_now
from diffdict.training.nonfinite import first_broken, stop, stop_too_fast
from diffdict.training.schedule import Rates
from diffdict.training.split_checkpoint import check_same, chosen, part, settings

CHECK_EVERY = 50  # steps between checks of the losses on a GPU, each of which waits for it
PRECISIONS = ("32-true", "64-true", "bf16-mixed")  # fp16 would clip and project scaled gradients


class Dictionaries(pl.LightningModule):
    """Sparse autoencoders on one stream of tokens, by name in `saes`; a single one is `sae`."""

    def __init__(
        self,
        sae: partial,
        optimizer: Callable[[Iterable[dict]], torch.optim.Optimizer],
        d_in: int,
        mean: Float[Tensor, " d_in"],
        scale: float,
        *,
        warmup_steps: int = 0,
        pressure_warmup_steps: int = 0,
        decay: str = "none",
        decay_share: float = 0.2,
        anneal_steps: int = 0,
        clip: float | None = 1.0,
        resample_every: int | None = None,
        ema_decay: float | None = None,
        compile: bool = False,
        concepts: Callable[..., ConceptTest] | None = ConceptTest,
        seed: int = 0,
        dims: Sequence[Mapping] = (),
        class_names: Sequence[str] = (),
        ignore_label: int | None = None,
    ) -> None:
        """`mean`, `scale` and `dims` describe the tokens, as the data module measured them;
        `concepts` is the concept test, which needs labelled pictures.

        The learning rate decays over the last `decay_share` of the run, or of `anneal_steps` if
        set. Dead latents are revived every `resample_every` tokens until the rate decays.
        """
        super().__init__()
        _check(ema_decay, clip, resample_every)
        check_concepts(concepts)
        self.sae, self.optimizer, self.d_in, self.seed = sae, optimizer, d_in, seed
        self.rates = Rates(warmup_steps, pressure_warmup_steps, decay, decay_share, anneal_steps)
        self.clip, self.resample_every, self.ema_decay = clip, resample_every, ema_decay
        self.parts = timestep_parts(dims, d_in)
        self.concepts, self.labels = concepts, (class_names, ignore_label, self.parts)
        self.findings: dict[str, Findings] = {}  # by name, after a test on labelled pictures
        self._concept_test: ConceptTest | None = None
        self.plans = expand_grid(sae)
        saes = {name: make(d_in, mean, scale) for name, make in self.plans.items()}
        for each in saes.values() if self.parts else ():
            each.repeat_rows(len(self.parts))
        self.saes = nn.ModuleDict(saes)
        self.ema = None if ema_decay is None else deepcopy(self.saes).requires_grad_(False).eval()
        self.metrics = nn.ModuleDict(
            {name: Sparsity(d_in, sae.latents, mean, self.parts) for name, sae in saes.items()}
        )
        self.gamma = off_centre(mean, scale, dims)
        self.tokens = self.resampled = 0  # tokens of all ranks; resampling windows done
        self._unchecked: list[tuple[int, Tensor]] = []  # by step: what is not finite
        self._resample_from: tuple[Tensor, dict[str, Output]] | None = None  # a window's last batch
        self._saved_at, self._evaluations = (-1, 0), 0
        self._parts: dict[str, float] = {}  # loss terms so far; 0 is logged when absent
        self._restart_clock()
        self._to_compile = list(saes.values()) if compile else []

    # ------------------------------------------------------------------ a step

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The sum of all dictionaries' losses on one batch of raw tokens."""
        if not self.tokens:
            self._begin(batch)
        pressure = self.rates.pressure(self.global_step)
        while self._to_compile and pressure == 1:  # a changing pressure would compile every step
            self._to_compile.pop().compile_dense()
        outputs = {name: sae(batch, pressure) for name, sae in self.saes.items()}
        self._count(batch, outputs)
        if logs_now(self.trainer, self.global_step):
            self._log_batch(batch, outputs, pressure)
        return torch.stack([output.loss for output in outputs.values()]).sum()

    def _begin(self, batch: Tensor) -> None:
        """Sets the dictionaries' centres from the first batch, that of rank 0."""
        for sae in self.saes.values():
            sae.set_centre(batch)
            if self.trainer.world_size > 1:
                distributed.broadcast(sae.b_dec.data, 0)
        if self.ema is not None:
            self.ema.load_state_dict(self.saes.state_dict())

    def _count(self, batch: Tensor, outputs: Mapping[str, Output]) -> None:
        """Counts tokens and active latents over all ranks, and notes losses that are not finite."""
        losses = [output.loss.detach() for output in outputs.values()]
        numbers = torch.stack([*losses, batch.sum(dtype=torch.float32)]).isfinite()
        marks = [~numbers, *(output.active > 0 for output in outputs.values())]
        lengths, world = [len(mark) for mark in marks], self.trainer.world_size
        if world > 1:
            shared = torch.cat(marks).to(torch.uint8)
            distributed.all_reduce(shared, distributed.ReduceOp.MAX)
            marks = shared.bool().split(lengths)
        for sae, fired in zip(self.saes.values(), marks[1:], strict=True):
            sae.count(fired, len(batch) * world)
        self.tokens += len(batch) * world
        self._tokens_since += len(batch) * world
        self._unchecked.append((self.global_step, marks[0]))
        if batch.device.type == "cpu" or len(self._unchecked) >= CHECK_EVERY:
            self._check_losses()
        if self.resample_every and self.tokens // self.resample_every > self.resampled:
            self._resample_from = batch, dict(outputs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Removes gradients parallel to the dictionary's rows, then clips to norm `clip`."""
        logs = logs_now(self.trainer, self.global_step)
        for name, sae in self.saes.items():
            sae.remove_parallel_gradient()
            parameters = [p for p in sae.parameters() if p.grad is not None]
            if self.clip is None and not logs:
                continue
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            if self.clip is not None and (norm.is_cuda or norm > self.clip):
                nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
            if logs:
                self.log(f"{self._place('train', name)}grad_norm", norm)

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        """The step, row norms, resampling and average: complete before a callback can save."""
        super().optimizer_step(*args, **kwargs)
        for sae in self.saes.values():
            sae.unit_norm()
        if self._resample_from is not None:
            self._resample(*self._resample_from)
            self._resample_from, self.resampled = None, self.tokens // self.resample_every
        if self.ema is not None:
            decay = average_decay(self.ema_decay, self.global_step)
            update_average(self.ema, self.saes, decay)
            for sae in self.ema.values():
                sae.unit_norm()

    @torch.no_grad()
    def _resample(self, batch: Tensor, outputs: Mapping[str, Output]) -> None:
        """Restarts dead latents at tokens with a large error (Bricken et al. 2023)."""
        for name, sae in self.saes.items():
            dead = sae.dead.nonzero().squeeze(1)[: len(batch)]
            if not sae.resamples or not len(dead) or self.global_step >= self.rates.falls_from:
                continue
            tokens = sae.standard(batch)
            error = (tokens - sae.standard(outputs[name].reconstruction)).square().sum(1)
            odds = error.double().square().cpu() + torch.finfo(torch.float64).tiny
            generator = torch.Generator().manual_seed(mix(self.seed, self.global_step))
            indices = torch.multinomial(odds, len(dead), generator=generator)
            directions = tokens[indices.to(tokens.device)]
            if self.trainer.world_size > 1:
                distributed.broadcast(directions, 0)
            sae.revive(dead, directions, self.trainer.optimizers[0])

    # ------------------------------------------------------------------ logging

    def _place(self, split: str, name: str) -> str:
        return f"{split}/" if name == ALONE else f"{split}/{name}/"

    def _restart_clock(self) -> None:
        self._since, self._tokens_since = time.perf_counter(), 0

    def _log_batch(self, batch: Tensor, outputs: Mapping[str, Output], pressure: float) -> None:
        """Figures of this batch, the learning rate, and the speed since the last log."""
        x = batch.float()
        variance = x.var(0, unbiased=False).sum() * len(x)
        for name, output in outputs.items():
            self._parts |= dict.fromkeys(output.parts, 0.0)
            figures = {
                "loss": output.loss.detach(),
                **self._parts,
                **output.parts,
                "fvu": (x - output.reconstruction).square().sum() / variance,
                "l0": output.active.sum() / len(x),
                "dead": self.saes[name].dead.float().mean(),
            }
            place = self._place("train", name)
            for key, value in figures.items():
                bar = name == ALONE and key in ("loss", "fvu")
                self.log(f"{place}{key}", value, prog_bar=bar, sync_dist=True)
        if len(outputs) > 1:
            self.log("train/loss", sum(o.loss.detach() for o in outputs.values()), prog_bar=True)
        speed = self._tokens_since / (time.perf_counter() - self._since)
        self._restart_clock()
        self.log("train/tokens_per_s", speed, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("train/pressure", pressure)

    def on_train_start(self) -> None:
        """Logs how far the tokens are off centre; the clock starts with the first batch."""
        for logger in self.loggers:
            figures = {f"train/{name}": value for name, value in self.gamma.items()}
            logger.log_metrics(figures, step=self.global_step)
        self._restart_clock()

    def on_train_end(self) -> None:
        """Checks the losses of the last steps."""
        self._check_losses()

    def on_validation_end(self) -> None:
        """Restarts the throughput clock after validation."""
        self._restart_clock()

    # ------------------------------------------------------------------ evaluation

    @property
    def evaluated(self) -> nn.ModuleDict:
        """The dictionaries that are tested and exported: the averages, if there are any."""
        return self.saes if self.ema is None else self.ema

    def dictionaries(self) -> dict[str, MeasuredDictionary]:
        """The evaluated dictionaries with their findings in the last test."""
        saes, findings = self.evaluated, self.findings
        return {name: MeasuredDictionary(saes[name], findings.get(name)) for name in saes}

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """One batch of tokens from pictures that were not trained on."""
        self._measure(batch)

    def on_test_start(self) -> None:
        """Prepares the concept test if the data has labelled pictures."""
        self.findings, self._concept_test, data = {}, None, self.trainer.datamodule
        if self.concepts is not None and data is not None and data.unlabelled is None:
            mean, saes = next(iter(self.metrics.values())).mean.float(), dict(self.evaluated)
            self._concept_test = self.concepts(saes, data.sample, mean, *self.labels)

    def test_step(
        self, batch: Tensor | LabelledPicture, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Tokens of test pictures as in validation; then the concept test's three passes."""
        if dataloader_idx == 0:
            self._measure(batch)
        elif self._concept_test is not None:
            self._concept_test.see(dataloader_idx - 1, batch)

    def _measure(self, batch: Tensor) -> None:
        """Updates the metrics in float32, whatever the precision of training."""
        with torch.autocast(self.device.type, enabled=False):
            for name, sae in self.evaluated.items():
                codes = sae.encode_sparse(batch)
                self.metrics[name].update(batch, sae.decode(codes), codes.latents, codes.values)

    def on_validation_epoch_end(self) -> None:
        """Logs the figures and stores each latent's density in the dictionary."""
        self._evaluations += 1
        for name, density in self._log_figures("val").items():
            for sae in {self.saes[name], self.evaluated[name]}:
                sae.frequency.copy_(density)

    def on_test_epoch_end(self) -> None:
        """Logs the figures, and those of the concept test."""
        self._log_figures("test")
        self.findings = self._concept_test.findings() if self._concept_test else {}
        self._concept_test = None
        for name, findings in self.findings.items():
            place = self._place("test", name)
            self.log_dict({place + key: value for key, value in findings.figures.items()})

    def on_test_end(self) -> None:
        """Prints a short table of each dictionary."""
        if self.trainer.is_global_zero:
            print_findings(self.findings)

    def tables(self) -> dict[str, list[dict[str, Cell]]]:
        """The last test's tables: a row for each class, and a row for each latent."""
        return findings_tables(self.findings)

    def look(self, image: Tensor, maps: NativeMaps, folder: Path, tables: Mapping) -> list[dict]:
        """The strongest concepts of one picture, drawn in `folder`; `tables` are a test's."""
        return draw_concepts(dict(self.evaluated), image, maps.images(), folder, tables)

    def _log_figures(self, split: str) -> dict[str, Tensor]:
        """Logs the figures over all ranks and returns the densities by dictionary."""
        densities = {}
        for name, sae in self.evaluated.items():
            figures = self.metrics[name].compute()._asdict()
            self.metrics[name].reset()
            cosines = coherence(sae.dictionary)
            figures |= {"coherence": cosines.mean_max, "coherence_max": cosines.max}
            densities[name] = figures.pop("density")
            figures |= {f"fvu_t{t:04d}": fvu for t, fvu in figures.pop("fvu_parts").items()}
            place = self._place(split, name)
            self.log_dict({place + key: value for key, value in figures.items()})
        return densities

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Refuses weights that are not finite; several dictionaries are also saved one by one."""
        self._check_losses()
        if not all(bool(p.isfinite().all()) for p in self.saes.parameters()):
            what = f"The weights are no numbers after step {self.global_step}"
            stop_too_fast(self.trainer, what, self.rates.warmup_steps)
        checkpoint["tokens"], checkpoint["resampled"] = self.tokens, self.resampled
        checkpoint["dictionaries"] = {"sae": settings(self.sae), "d_in": self.d_in}
        before, self._saved_at = self._saved_at, (self.global_step, self._evaluations)
        if len(self.saes) == 1 or not self.trainer.is_global_zero or self._saved_at == before:
            return
        folder = Path(self.trainer.default_root_dir) / "checkpoints"
        for group, (name, plan) in enumerate(self.plans.items()):
            single = part(checkpoint, name, group, chosen(self.sae, plan))
            save_whole(single, folder / name / "last.ckpt")

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restores the position in the stream of tokens."""
        self.tokens, self.resampled = checkpoint["tokens"], checkpoint["resampled"]

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """Refuses a checkpoint of other tokens or settings."""
        if (record := content.get("dictionaries")) is None:
            return  # of another task: loading its weights reports their shapes
        if record["d_in"] != self.d_in:
            raise UserError(
                f"Tokens here are {self.d_in} wide, the dictionary in {path} was learned on "
                f"tokens of width {record['d_in']}: give the backbone=, timestep=, block= and "
                f"data.mix= that it was learned with"
            )
        check_same(path, record["sae"], self.sae)

    def _check_losses(self) -> None:
        """Stops if a loss was not finite; blames the tokens if they were not either."""
        marks, self._unchecked = self._unchecked, []
        if (broken := first_broken(marks)) is None:
            return
        step, column = broken
        if dict(marks)[step][-1]:
            look = "look at the features with diffdict verify, and extract them again"
            stop(self.trainer, f"Step {step} met tokens that are no numbers: {look}")
        name = list(self.saes)[column]
        what = f"The loss{'' if name == ALONE else f' of {name}'} is no number at step {step}"
        if step == 0:
            smaller = "try sae.standardise=true or a lower sae.sparsity"
            stop(self.trainer, f"{what}, before anything was learned: {smaller}")
        stop_too_fast(self.trainer, what, self.rates.warmup_steps)

    # ------------------------------------------------------------------ optimizer

    def setup(self, stage: str) -> None:
        """Refuses the trainer's gradient clipping, and precisions that do not serve here."""
        if self.trainer.gradient_clip_val is not None:
            raise UserError(
                "Each dictionary's gradient is clipped by itself: say "
                f"model.clip={self.trainer.gradient_clip_val:g}, not trainer.gradient_clip_val"
            )
        if stage == "fit" and self.trainer.precision not in PRECISIONS:
            raise UserError(
                f"trainer.precision={self.trainer.precision} does not serve here: "
                f"it is one of {', '.join(PRECISIONS)}"
            )

    def configure_optimizers(self) -> dict:
        """One optimizer with a group for each dictionary; its rate warms up, then decays."""
        groups = [{"params": list(sae.parameters())} for sae in self.saes.values()]
        return self.rates.scheduled(self.optimizer, groups, self.trainer)


def _check(ema_decay: float | None, clip: float | None, resample_every: int | None) -> None:
    """Checks the settings."""
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise UserError(f"model.ema_decay must lie in [0, 1), got {ema_decay}. Try 0.999 or null.")
    if clip is not None and not clip > 0:
        raise UserError(f"model.clip must be positive, or null for none, got {clip}")
    if resample_every is not None and resample_every < 1:
        raise UserError(f"model.resample_every counts tokens (null: never), got {resample_every}")
