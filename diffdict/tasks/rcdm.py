"""`task=rcdm`: a diffusion model that is told the vector of the picture (Bordes et al. 2022).

While it learns, vectors are in standard form: mean 0 and deviation 1 a dimension. A checkpoint and
an export hold `ssl_emb` for raw vectors, mean and deviation folded in, as the original's files do;
beside it, under `learned.`, it stands as it was learned, so that a resumed run goes on exactly.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.denoiser import Denoiser, Given
from diffdict.backbones.rcdm import RCDM
from diffdict.diffusion.objectives import Losses, quarter
from diffdict.errors import UserError
from diffdict.seeds import entropy
from diffdict.tasks.diffusion import Diffusion, Exported
from diffdict.training.draws import Draws
from diffdict.training.epoch import current_epoch

HIDE = 16  # the family of draws by which vectors are left out
PARTS, LEARNED = ("net", "ema"), "learned"
TOLD = ("own", "none", "other")  # whose vector the network is told while it is measured


class Rcdm(Diffusion):
    """`Diffusion`, told a vector; measured with the picture's own, with none, with another's."""

    def __init__(
        self,
        net: Denoiser,
        vector_width: int,
        representation: dict,
        drop: float | int = 0.0,
        hide: float | int = 0.0,
        **diffusion,
    ) -> None:
        """`drop`: the share of pictures learned without their vector.

        `hide`: the chance of each dimension by itself to be at its mean. `representation` is what
        is known of the one that makes the vectors: name, sha256, image_size, width.
        """
        if not isinstance(net, RCDM):
            raise UserError(
                f"{net.name} takes no vector (it has no ssl_emb): backbone=toy_rcdm or "
                "backbone=rcdm, which an unconditional file starts too (backbone.checkpoint=…)"
            )
        for key, share in (("drop", drop), ("hide", hide)):
            if not 0 <= share < 1:
                raise UserError(f"model.{key} is a share in [0, 1), got {share}: model.{key}=0.1")
        net.widen(vector_width)
        super().__init__(net, **diffusion)
        self.representation, self.drop, self.hide = representation, drop, hide
        self.register_buffer("vector_mean", torch.zeros(vector_width))
        self.register_buffer("vector_scale", torch.ones(vector_width))
        self._sums = torch.zeros(2, len(TOLD), 4, dtype=torch.float64)
        self.register_state_dict_post_hook(_fold_state)
        self.register_load_state_dict_pre_hook(_unfold_state)

    def setup(self, stage: str) -> None:
        """The standard form of the training vectors; raw weights to begin with are brought to it.

        A checkpoint that is loaded after this brings its own.
        """
        if stage != "fit":
            return
        raw = [self.folded(net.ssl_emb) for net in (self.net, self.ema)]
        mean, scale = self.trainer.datamodule.standard
        self.vector_mean.copy_(mean)
        self.vector_scale.copy_(scale)
        deviation = torch.where(self.vector_scale > 0, 1 / self.vector_scale, 0)
        for net, layer in zip((self.net, self.ema), raw, strict=True):
            bias = layer["bias"] + layer["weight"] @ self.vector_mean.to(layer["weight"])
            weight = layer["weight"] * deviation.to(layer["weight"])
            net.ssl_emb.load_state_dict({"weight": weight, "bias": bias})

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """A run goes on with the representation that it began with."""
        super().check_checkpoint(path, content)
        theirs = (content.get("facts") or {}).get("representation") or {}
        for key, what in (("name", "the representation"), ("sha256", "weights")):
            if key in theirs and theirs[key] != self.representation[key]:
                raise UserError(
                    f"ckpt_path={path} was learned with {what} {theirs[key]}, here it is "
                    f"{self.representation[key]}: say representation= and its settings as before"
                )

    def standardised(self, vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """Raw vectors in the form in which the network learns them."""
        return (vectors - self.vector_mean) * self.vector_scale

    def given(self, net: Denoiser, batch: Mapping) -> Given:
        """As any diffusion's, and the vector; what is hidden of it is at its mean."""
        given = super().given(net, batch)
        if batch.get("vector") is None:
            return given
        vector = self.standardised(batch["vector"])
        if "hidden" in batch:
            vector = vector.masked_fill(batch["hidden"], 0)
        return given._replace(vector=vector, told=batch.get("told"))

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """One batch: the mean loss of its pictures."""
        return super().training_step({**batch, **self._left_out(batch)}, batch_idx)

    def _left_out(self, batch: Mapping) -> dict[str, Tensor]:
        """What the network is not told, from (seed, epoch, picture) alone."""
        if not (self.drop or self.hide):
            return {}
        width, epoch = len(self.vector_mean), current_epoch(self.trainer)
        told, hidden = [], []
        for index in batch["index"].tolist():
            generator = torch.Generator().manual_seed(entropy(self.seed, HIDE, epoch, index))
            told.append(torch.rand((), generator=generator) >= self.drop)
            hidden.append(torch.rand(width, generator=generator) < self.hide)
        device = batch["image"].device
        masks = {"told": torch.stack(told).to(device)} if self.drop else {}
        return masks | ({"hidden": torch.stack(hidden).to(device)} if self.hide else {})

    def _judge(self, split: str, batch: Mapping) -> tuple[Draws, Losses]:
        """What the vector is worth: losses with it, without, and with another picture's."""
        draws, own_losses = super()._judge(split, batch)
        without = {key: value for key, value in batch.items() if key != "vector"}
        losses = [
            own_losses,
            self._losses(self.ema, without, *draws),
            self._losses(self.ema, {**without, "vector": batch["other"]}, *draws),
        ]
        quarters = quarter(self.objective, self.ema.process, draws.t).cpu()
        for row, variant in enumerate(losses):
            values = variant.loss.detach().double().cpu()
            self._sums[0, row].index_add_(0, quarters, values)
            self._sums[1, row].index_add_(0, quarters, torch.ones_like(values))
        return draws, own_losses

    def on_validation_epoch_end(self) -> None:
        """Losses by whose vector was told."""
        self._log_told("val")

    def on_test_epoch_end(self) -> None:
        """Losses by whose vector was told."""
        self._log_told("test")

    def _log_told(self, split: str) -> None:
        """Of all pictures, and of each quarter of the chain, 1 the least noisy."""
        sums = self.all_gather(self._sums.to(self.device, torch.float32))
        sums = sums.reshape(-1, *self._sums.shape).sum(0).cpu()
        self._sums = torch.zeros_like(self._sums)
        figures = {}
        for row, name in enumerate(TOLD):
            total, count = sums[:, row]
            figures[f"{split}/loss_{name}"] = float(total.sum() / count.sum())
            figures |= {
                f"{split}/loss_{name}_q{q + 1}": float(total[q] / count[q])
                for q in range(4)
                if count[q]
            }
        self.log_dict(figures, rank_zero_only=False, sync_dist=False)

    def exported(self, average: nn.Module | None = None) -> Exported:
        """The average network for raw vectors, and the representation that it knows."""
        net = copy.deepcopy(self.ema if average is None else average)
        folded = self.folded(net.ssl_emb)
        net.ssl_emb.load_state_dict(folded)
        return Exported(net, {key: str(value) for key, value in self.learned_with().items()})

    def learned_with(self) -> dict[str, str | float]:
        """What a file says of what this network was told."""
        facts = {f"representation_{key}": str(value) for key, value in self.representation.items()}
        return facts | {"drop": float(self.drop)}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Weights that are numbers, and what they were told."""
        super().on_save_checkpoint(checkpoint)
        checkpoint |= self.learned_with()

    def folded(self, layer: nn.Linear) -> dict[str, Tensor]:
        """The layer for raw vectors that answers as it does to those in standard form."""
        scale, mean = self.vector_scale.double(), self.vector_mean.double()
        weight = layer.weight.detach().double() * scale
        bias = layer.bias.detach().double() - weight @ mean
        return {"weight": weight.to(layer.weight.dtype), "bias": bias.to(layer.bias.dtype)}


def _fold_state(task: Rcdm, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """`ssl_emb` for raw vectors where readers of weights look, and as learned beside it."""
    for part in PARTS:
        folded = task.folded(getattr(task, part).ssl_emb)
        for key, value in folded.items():
            place = f"{prefix}{part}.ssl_emb.{key}"
            state[f"{prefix}{LEARNED}.{part}.{key}"] = state[place]
            state[place] = value


def _unfold_state(task: Rcdm, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """As it was learned, and nothing else."""
    for part in PARTS:
        for key in ("weight", "bias"):
            tensor = state.pop(f"{prefix}{LEARNED}.{part}.{key}", None)
            if tensor is not None:
                state[f"{prefix}{part}.ssl_emb.{key}"] = tensor
