"""`task=sae`: learns dictionaries of what a backbone saw; several side by side from one stream.

One optimizer moves all, a parameter group for each, and nothing else is shared: clipping, dead
latents and average are a dictionary's own, so that side by side is the same as alone.
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

from diffdict.checkpoints import save_whole
from diffdict.errors import UserError
from diffdict.features.gather import NativeMaps
from diffdict.features.labelled import LabelledPicture
from diffdict.features.moments import off_centre
from diffdict.features.shuffle import mix
from diffdict.metrics.findings import Cell, Findings, tables
from diffdict.metrics.sparsity import Sparsity, coherence
from diffdict.reports.concepts.look import look
from diffdict.sae.base import Output
from diffdict.sae.several import ALONE, apart
from diffdict.tasks.concepts import ConceptTest, check_concepts, show
from diffdict.tasks.diffusion import average_decay, update_average
from diffdict.tasks.divergence import first_broken, stop, stop_too_fast
from diffdict.tasks.rates import Rates
from diffdict.tasks.side_by_side import check_same, chosen, part, settings

LOOK_EVERY = 50  # steps after which a GPU is asked for its losses; else it is never waited for
PRECISIONS = ("32-true", "64-true", "bf16-mixed")  # fp16 would clip and project scaled gradients


class Dictionaries(pl.LightningModule):
    """Sparse autoencoders of one stream of tokens, by name in `saes`; a single one is `sae`."""

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
        """`mean`, `scale` and `dims` are the tokens', as the data module measured them.

        `concepts` looks at the pictures that follow a test's tokens where they are labelled.

        The rate decays over the last `decay_share` of the run, or of `anneal_steps` where given.
        `resample_every` counts tokens; latents are no longer revived once the rate decays.
        """
        super().__init__()
        _check(ema_decay, clip, resample_every)
        check_concepts(concepts)
        self.sae, self.optimizer, self.d_in, self.seed = sae, optimizer, d_in, seed
        self.rates = Rates(warmup_steps, pressure_warmup_steps, decay, decay_share, anneal_steps)
        self.clip, self.resample_every, self.ema_decay = clip, resample_every, ema_decay
        self.concepts, self.labels = concepts, (class_names, ignore_label)
        self.findings: dict[str, Findings] = {}  # by name, after a test on labelled pictures
        self._looking: ConceptTest | None = None
        self.plans = apart(sae)
        made = {name: make(d_in, mean, scale) for name, make in self.plans.items()}
        self.saes = nn.ModuleDict(made)
        average = ema_decay is not None
        self.ema = deepcopy(self.saes).requires_grad_(False).eval() if average else None
        self.metrics = nn.ModuleDict(
            {name: Sparsity(d_in, one.latents, mean) for name, one in made.items()}
        )
        self.gamma = off_centre(mean, scale, dims)
        self.tokens = self.resampled = 0  # seen by all ranks; windows of them after which we looked
        self._unchecked: list[tuple[int, Tensor]] = []  # no number: whose loss, or tokens
        self._crossing: tuple[Tensor, dict[str, Output]] | None = None  # where a window ended
        self._kept_at, self._judged_at = (-1, 0), 0
        self._parts: dict[str, float] = {}  # of losses, as far as they were met: 0 where they rest
        self._restart_clock()
        dense = [one for one in made.values() if hasattr(one, "compile_dense")]
        self._to_compile = dense if compile else []

    # ------------------------------------------------------------------ a step

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """One batch of raw tokens through every dictionary: the sum of their losses."""
        if not self.tokens:
            self._begin(batch)
        pressure = self.rates.pressure(self.global_step)
        while self._to_compile and pressure == 1:  # a number that moves would be compiled anew
            self._to_compile.pop().compile_dense()
        outputs = {name: sae(batch, pressure) for name, sae in self.saes.items()}
        self._count(batch, outputs)
        if self._logs_now:
            self._log_batch(batch, outputs, pressure)
        return torch.stack([output.loss for output in outputs.values()]).sum()

    def _begin(self, batch: Tensor) -> None:
        """Medians are taken from the first batch, the first rank's."""
        for sae in self.saes.values():
            sae.set_centre(batch)
            if self.trainer.world_size > 1:
                distributed.broadcast(sae.b_dec.data, 0)
        if self.ema is not None:
            self.ema.load_state_dict(self.saes.state_dict())

    def _count(self, batch: Tensor, outputs: Mapping[str, Output]) -> None:
        """What the batches of all ranks say of dead latents, and where there is no number."""
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
        if batch.device.type == "cpu" or len(self._unchecked) >= LOOK_EVERY:
            self._check_losses()
        if self.resample_every and self.tokens // self.resample_every > self.resampled:
            self._crossing = batch, dict(outputs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients lose what lies along the dictionary's rows, then what is longer than `clip`."""
        for name, sae in self.saes.items():
            sae.remove_parallel_gradient()
            parameters = [p for p in sae.parameters() if p.grad is not None]
            if self.clip is None and not self._logs_now:
                continue
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            if self.clip is not None and (norm.is_cuda or norm > self.clip):
                nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
            if self._logs_now:
                self.log(f"{self._place('train', name)}grad_norm", norm)

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        """The step and all that belongs to it, before any callback can save what lies between."""
        super().optimizer_step(*args, **kwargs)
        for sae in self.saes.values():
            sae.unit_norm()
        if self._crossing is not None:
            self._resample(*self._crossing)
            self._crossing, self.resampled = None, self.tokens // self.resample_every
        if self.ema is not None:
            decay = average_decay(self.ema_decay, self.global_step)
            update_average(self.ema, self.saes, decay)
            for sae in self.ema.values():
                sae.unit_norm()

    @torch.no_grad()
    def _resample(self, batch: Tensor, outputs: Mapping[str, Output]) -> None:
        """Dead latents start anew at tokens that are explained badly (Bricken et al. 2023)."""
        for name, sae in self.saes.items():
            dead = sae.dead.nonzero().squeeze(1)[: len(batch)]
            if not sae.resamples or not len(dead) or self.global_step >= self.rates.falls_from:
                continue
            tokens = sae.standard(batch)
            error = (tokens - sae.standard(outputs[name].reconstruction)).square().sum(1)
            odds = error.double().square().cpu() + torch.finfo(torch.float64).tiny
            generator = torch.Generator().manual_seed(mix(self.seed, self.global_step))
            drawn = torch.multinomial(odds, len(dead), generator=generator)
            directions = tokens[drawn.to(tokens.device)]
            if self.trainer.world_size > 1:
                distributed.broadcast(directions, 0)
            sae.revive(dead, directions, self.trainer.optimizers[0])

    # ------------------------------------------------------------------ what is logged

    @property
    def _logs_now(self) -> bool:
        every = self.trainer.log_every_n_steps
        return bool(every) and (self.global_step + 1) % every == 0

    def _place(self, split: str, name: str) -> str:
        return f"{split}/" if name == ALONE else f"{split}/{name}/"

    def _restart_clock(self) -> None:
        self._since, self._tokens_since = time.perf_counter(), 0

    def _log_batch(self, batch: Tensor, outputs: Mapping[str, Output], pressure: float) -> None:
        """Figures of this batch, the rate and the speed since the last time."""
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
        """What is so once; the clock starts with the first batch, not with the process."""
        for logger in self.loggers:
            figures = {f"train/{name}": value for name, value in self.gamma.items()}
            logger.log_metrics(figures, step=self.global_step)
        self._restart_clock()

    def on_train_end(self) -> None:
        """Of the last steps too."""
        self._check_losses()

    def on_validation_end(self) -> None:
        """Judging is no training: it leaves the rate alone."""
        self._restart_clock()

    # ------------------------------------------------------------------ what it is worth

    @property
    def judged(self) -> nn.ModuleDict:
        """The dictionaries that are measured and handed on: the averages, where they are kept."""
        return self.saes if self.ema is None else self.ema

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Tokens of pictures that were held out."""
        self._judge(batch)

    def on_test_start(self) -> None:
        """Where labelled pictures follow the tokens: what they will be asked."""
        self.findings, self._looking, data = {}, None, self.trainer.datamodule
        if self.concepts is not None and data is not None and data.unlabelled is None:
            mean = next(iter(self.metrics.values())).mean.float()
            self._looking = self.concepts(dict(self.judged), data.sample, mean, *self.labels)

    def test_step(
        self, batch: Tensor | LabelledPicture, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """As validation, on tokens that no choice has seen; then whole pictures in three walks."""
        if dataloader_idx == 0:
            self._judge(batch)
        elif self._looking is not None:
            self._looking.see(dataloader_idx - 1, batch)

    def _judge(self, batch: Tensor) -> None:
        """In float32, whatever the training's precision: the figures are the dictionary's."""
        with torch.autocast(self.device.type, enabled=False):
            for name, sae in self.judged.items():
                codes = sae.encode_sparse(batch)
                self.metrics[name].update(batch, sae.decode(codes), codes.latents, codes.values)

    def on_validation_epoch_end(self) -> None:
        """The figures, and how often each latent was active, which the dictionary keeps."""
        self._judged_at += 1
        for name, density in self._log_figures("val").items():
            for sae in {self.saes[name], self.judged[name]}:
                sae.frequency.copy_(density)

    def on_test_epoch_end(self) -> None:
        """The figures, and what the latents are."""
        self._log_figures("test")
        self.findings = self._looking.findings() if self._looking else {}
        self._looking = None
        for name, findings in self.findings.items():
            place = self._place("test", name)
            self.log_dict({place + key: value for key, value in findings.figures.items()})

    def on_test_end(self) -> None:
        """A short table of each dictionary."""
        if self.trainer.is_global_zero:
            show(self.findings)

    def tables(self) -> dict[str, list[dict[str, Cell]]]:
        """Of the last test, a row a class and a row a latent."""
        return tables(self.findings)

    def look(self, image: Tensor, maps: NativeMaps, folder: Path, tables: Mapping) -> list[dict]:
        """The strongest concepts of one picture, drawn in `folder`; `tables` are a test's."""
        return look(dict(self.judged), image, maps.images(), folder, tables)

    def _log_figures(self, split: str) -> dict[str, Tensor]:
        """What all ranks have seen; densities by name."""
        densities = {}
        for name, sae in self.judged.items():
            found = self.metrics[name].compute()
            self.metrics[name].reset()
            alike = coherence(sae.dictionary)
            own = {"coherence": alike.mean_max, "coherence_max": alike.max}
            figures = {**found._asdict(), **own}
            densities[name] = figures.pop("density")
            place = self._place(split, name)
            self.log_dict({place + key: value for key, value in figures.items()})
        return densities

    # ------------------------------------------------------------------ what is kept

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Nothing that is no number is ever saved; several dictionaries are kept one by one too."""
        self._check_losses()
        if not all(bool(p.isfinite().all()) for p in self.saes.parameters()):
            what = f"The weights are no numbers after step {self.global_step}"
            stop_too_fast(self.trainer, what, self.rates.warmup_steps)
        checkpoint["tokens"], checkpoint["resampled"] = self.tokens, self.resampled
        checkpoint["dictionaries"] = {"sae": settings(self.sae), "d_in": self.d_in}
        before, self._kept_at = self._kept_at, (self.global_step, self._judged_at)
        if len(self.saes) == 1 or not self.trainer.is_global_zero or self._kept_at == before:
            return
        folder = Path(self.trainer.default_root_dir) / "checkpoints"
        for group, (name, plan) in enumerate(self.plans.items()):
            own = part(checkpoint, name, group, chosen(self.sae, plan))
            save_whole(own, folder / name / "last.ckpt")

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Where the stream stood."""
        self.tokens, self.resampled = checkpoint["tokens"], checkpoint["resampled"]

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """Nothing, or a sentence about a checkpoint that cannot serve these tokens and settings."""
        if (kept := content.get("dictionaries")) is None:
            return  # of another task: its shapes will say so
        if kept["d_in"] != self.d_in:
            raise UserError(
                f"Tokens here are {self.d_in} wide, the dictionary in {path} was learned on "
                f"tokens of width {kept['d_in']}: give the backbone=, timestep=, block= and "
                f"data.mix= that it was learned with"
            )
        check_same(path, kept["sae"], settings(self.sae))

    def _check_losses(self) -> None:
        """Stops where a loss was no number, and says so if its tokens were none."""
        seen, self._unchecked = self._unchecked, []
        if (broken := first_broken(seen)) is None:
            return
        step, column = broken
        if dict(seen)[step][-1]:
            look = "look at the features with diffdict verify, and extract them again"
            stop(self.trainer, f"Step {step} met tokens that are no numbers: {look}")
        name = list(self.saes)[column]
        what = f"The loss{'' if name == ALONE else f' of {name}'} is no number at step {step}"
        if step == 0:
            smaller = "try sae.standardise=true or a lower sae.sparsity"
            stop(self.trainer, f"{what}, before anything was learned: {smaller}")
        stop_too_fast(self.trainer, what, self.rates.warmup_steps)

    # ------------------------------------------------------------------ rates

    def setup(self, stage: str) -> None:
        """Refuses what would clip or round in a way that is not this task's."""
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
        """The optimizer over all dictionaries, a group for each; warm-up, then as `decay` says."""
        groups = [{"params": list(sae.parameters())} for sae in self.saes.values()]
        return self.rates.scheduled(self.optimizer, groups, self.trainer)


def _check(ema_decay: float | None, clip: float | None, resample_every: int | None) -> None:
    """The task's own settings."""
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise UserError(f"model.ema_decay must lie in [0, 1), got {ema_decay}. Try 0.999 or null.")
    if clip is not None and not clip > 0:
        raise UserError(f"model.clip must be positive, or null for none, got {clip}")
    if resample_every is not None and resample_every < 1:
        raise UserError(f"model.resample_every counts tokens (null: never), got {resample_every}")
