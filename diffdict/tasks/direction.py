"""`task=direction`: a linear direction in codes for an attribute, in all entries or in a few.

A linear classifier of normalised codes (Zhang et al. 2022); with `dims` a probability mask learns
which entries it needs (Yue et al. 2024). The epoch is chosen on training pictures held out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffdict.classifiers.probability_mask import ProbabilityMask
from diffdict.errors import UserError
from diffdict.features.code_batches import CodeBatch
from diffdict.metrics.attributes.attribute_precision import AttributeFigure, AttributePrecision
from diffdict.seeds import entropy, mix
from diffdict.training.logs_now import logs_now
from diffdict.training.schedule import make_optimizer

DRAWS = ("likeliest", "published")
CLIP = 3.0  # of the norm of the scores' gradient
CHANCE, EPOCH = range(2)  # which family of draws a seed opens


class Direction(pl.LightningModule):
    """Learns one attribute's direction, or all at once under one mask."""

    def __init__(
        self,
        optimizer: Callable[[Iterable], torch.optim.Optimizer],
        code: int,
        code_mean: Float[Tensor, " code"],
        code_std: Float[Tensor, " code"],
        attributes: Sequence[Mapping],
        attribute_means: Sequence[float],
        dataset: str,
        backbone: str,
        backbone_sha256: str,
        attribute: str | None = None,
        dims: int | None = None,
        draw: str = "likeliest",
        seed: int = 0,
    ) -> None:
        """`attribute`: its name; None: all binary ones. `dims`: so many entries; None: all.

        `draw`: which entries stay at an epoch's end, the likeliest, or as published a draw of each.
        """
        super().__init__()
        if draw not in DRAWS:
            raise UserError(f"model.draw is {' or '.join(DRAWS)}, got {draw!r}")
        self.names, self.columns = _chosen(attributes, attribute_means, attribute, dataset)
        self.optimizer, self.draw_rule, self.seed, self.dims = optimizer, draw, seed, dims
        self.backbone, self.backbone_sha256 = backbone, backbone_sha256
        self.linear = nn.Linear(code, len(self.names))
        self._start(code)
        self.mask = None if dims is None else ProbabilityMask(code, dims, 1)
        std = torch.as_tensor(code_std)
        self.register_buffer("code_mean", torch.as_tensor(code_mean).clone())
        self.register_buffer("code_std", torch.where(std > 0, std, 1.0))
        nothing = torch.full((len(self.names), code), torch.nan)
        self.register_buffer("best_weight", nothing)
        self.register_buffer("best_bias", nothing[:, 0].clone())
        self.register_buffer("best_precision", torch.tensor(-1.0))
        self.choosing, self.testing = AttributePrecision(), AttributePrecision()
        self.tested: list[AttributeFigure] | None = None

    @torch.no_grad()
    def _start(self, code: int) -> None:
        """As torch's own Linear begins, from the seed alone."""
        generator, bound = torch.Generator().manual_seed(mix(self.seed)), code**-0.5
        for parameter in self.linear.parameters():
            parameter.uniform_(-bound, bound, generator=generator)

    def normalised(self, batch: CodeBatch) -> Float[Tensor, "batch code"]:
        """Codes of mean 0 and deviation 1."""
        return (batch.codes - self.code_mean) / self.code_std

    # ------------------------------------------------------------------ a step

    def on_fit_start(self) -> None:
        """The mask opens and closes along the whole run."""
        steps = self.trainer.estimated_stepping_batches
        if self.mask is None:
            return
        if not steps < float("inf"):
            raise UserError(
                "model.dims closes the mask along the run, which has no end here: say "
                "trainer.max_epochs= or trainer.max_steps="
            )
        self.mask.set_length(int(steps) + 1)

    def training_step(self, batch: CodeBatch, batch_idx: int) -> Tensor:
        """Binary cross-entropy of what is known."""
        codes, step = self.normalised(batch), self.global_step
        if self.mask is not None:
            generator = torch.Generator().manual_seed(entropy(self.seed, CHANCE, step))
            uniforms = torch.rand(2, codes.shape[1], generator=generator).to(codes.device)
            codes = self.mask(codes, step, (uniforms[0], uniforms[1]))
        loss = self.loss(codes, batch.attributes)
        if logs_now(self.trainer, step):
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(codes))
        return loss

    def loss(
        self, codes: Float[Tensor, "batch code"], attributes: Float[Tensor, "batch attributes"]
    ) -> Float[Tensor, ""]:
        """The mean over all that is known."""
        truth = attributes[:, self.columns]
        known = ~truth.isnan()
        losses = F.binary_cross_entropy_with_logits(
            self.linear(codes), truth.nan_to_num(), reduction="none"
        )
        return (losses * known).sum() / known.sum().clamp(min=1)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The gradient of the scores is kept short."""
        if self.mask is not None and self.mask.scores.grad is not None:
            nn.utils.clip_grad_norm_([self.mask.scores], CLIP)

    def optimizer_step(self, *args, **kwargs) -> None:
        """After a step the nearest probabilities that are allowed."""
        super().optimizer_step(*args, **kwargs)
        if self.mask is not None:
            self.mask.project(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Over the classifier, and the probabilities where there are some."""
        return make_optimizer(self.optimizer, self.parameters())

    # ------------------------------------------------------------------ what it is worth

    def entries(self) -> Tensor | None:
        """The entries that stay at this epoch's end; None: all."""
        if self.mask is None:
            return None
        if self.draw_rule == "likeliest":
            return self.mask.likeliest()
        generator = torch.Generator().manual_seed(entropy(self.seed, EPOCH, self.current_epoch))
        chance = torch.rand(self.mask.dims, generator=generator)
        return chance.to(self.mask.scores.device) < self.mask.scores

    def now(self) -> tuple[Float[Tensor, "attributes code"], Float[Tensor, " attributes"]]:
        """The classifier as it stands, 0 at the entries that are left out."""
        weight, entries = self.linear.weight.detach(), self.entries()
        return weight if entries is None else weight * entries, self.linear.bias.detach()

    def validation_step(self, batch: CodeBatch, batch_idx: int) -> None:
        """Pictures held out."""
        weight, bias = self.now()
        scores = self.normalised(batch) @ weight.T + bias
        self.choosing.update(scores, batch.attributes[:, self.columns])

    def on_validation_epoch_end(self) -> None:
        """The best epoch so far is kept, of equal ones the last."""
        figures = self.choosing.compute()
        self.choosing.reset()
        if self.trainer.sanity_checking:
            return
        mean = mean_precision(figures)
        self.log("val/average_precision", mean)
        if mean >= float(self.best_precision):
            weight, bias = self.now()
            self.best_weight.copy_(weight)
            self.best_bias.copy_(bias)
            self.best_precision.fill_(mean)

    def on_train_end(self) -> None:
        """Where nothing could be measured there is nothing to hand on."""
        if self.best_weight.isnan().any():
            raise UserError(
                f"No epoch could be chosen: of {', '.join(self.names[:5])} the pictures held out "
                "show no case and no counter-case. Give more training pictures, or a larger "
                "data.val_fraction"
            )

    def test_step(self, batch: CodeBatch, batch_idx: int) -> None:
        """The chosen epoch on pictures that no choice has seen."""
        scores = self.normalised(batch) @ self.best_weight.T + self.best_bias
        self.testing.update(scores, batch.attributes[:, self.columns])

    def on_test_epoch_end(self) -> None:
        """The mean over attributes."""
        self.tested = self.testing.compute()
        self.testing.reset()
        self.log("test/average_precision", mean_precision(self.tested))

    def tables(self) -> dict[str, list[dict[str, str | int | float]]]:
        """Of each attribute how well it is told, and how many entries tell it."""
        if self.tested is None:
            return {}
        entries = (self.best_weight != 0).sum(1).tolist()
        return {
            "attributes": [
                {
                    "attribute": name,
                    "entries": count,
                    "average_precision": figure.precision,
                    "chance": figure.share,
                    "pictures": figure.pictures,
                }
                for name, count, figure in zip(self.names, entries, self.tested, strict=True)
            ]
        }

    # ------------------------------------------------------------------ checkpoints

    @property
    def described(self) -> dict[str, object]:
        """What was learned on what, in plain values."""
        return {
            "attributes": self.names,
            "dims": self.dims,
            "backbone": self.backbone,
            "backbone_sha256": self.backbone_sha256,
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """With it what the directions are."""
        checkpoint["direction"] = self.described

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """A run goes on, and is measured, with what it began with."""
        theirs = content.get("direction")
        for key, value in self.described.items() if isinstance(theirs, Mapping) else ():
            if theirs.get(key) != value:
                raise UserError(
                    f"ckpt_path={path} was learned with {key}={theirs.get(key)}, here it is "
                    f"{value}: say {theirs.get(key)}, or start anew without ckpt_path="
                )


def mean_precision(figures: Sequence[AttributeFigure]) -> float:
    """Over the attributes that could be measured; NaN: none."""
    precisions = [figure.precision for figure in figures if figure.precision == figure.precision]
    return sum(precisions) / len(precisions) if precisions else torch.nan


def _chosen(
    attributes: Sequence[Mapping], means: Sequence[float], wanted: str | None, dataset: str
) -> tuple[list[str], list[int]]:
    """Names and columns of the attributes to learn: binary ones that change."""
    if not attributes:
        raise UserError(
            f"task=direction learns attributes of whole pictures, and those of {dataset} have "
            "none: a set with attributes (dataset=npz with attributes)"
        )
    names = [attribute["name"] for attribute in attributes]
    if wanted is not None and wanted not in names:
        raise UserError(
            f"model.attribute={wanted} is none of {dataset}: there are {', '.join(names)}"
        )
    candidates = [wanted] if wanted is not None else names
    columns = [names.index(name) for name in candidates]
    binary = [column for column in columns if attributes[column]["kind"] == "binary"]
    if not binary:
        raise UserError(
            f"task=direction takes attributes that a picture has or has not, and "
            f"{', '.join(candidates[:5])} of {dataset} are numbers: model.attribute= a binary one"
        )
    changing = [column for column in binary if 0 < means[column] < 1]
    left_out = [names[column] for column in binary if column not in changing]
    if not changing:
        raise UserError(
            f"The training pictures of {dataset} all agree about {', '.join(left_out[:5])}, or "
            "nothing is known of it, so there is no direction: another model.attribute=, or more "
            "pictures"
        )
    if left_out:
        print(f"Left out, for the training pictures agree about them: {', '.join(left_out)}")
    return [names[column] for column in changing], changing
