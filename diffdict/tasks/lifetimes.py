"""`task=lifetimes`: in which timesteps a dictionary's latents live, and how steady their codes are.

Each labelled picture is seen at every timestep under several noises: fit, density and reliability
by latent, and which class's tokens each latent finds with one choice for all timesteps and its own.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from diffdict.backbones.base import Backbone, Block
from diffdict.diffusion.samplers import own_noise
from diffdict.errors import UserError, at_least
from diffdict.features.codes.studied_dictionary import open_studied
from diffdict.features.locations import Timesteps, listed
from diffdict.metrics.concepts.ranking import token_labels
from diffdict.metrics.excess import Excess
from diffdict.metrics.reliability import Reliability
from diffdict.metrics.sparsity import Sparsity
from diffdict.results.tables import Row
from diffdict.tasks.interventions.chains import check_picture_size
from diffdict.tasks.substitution import check_encoding


class TokenOverlap(Excess):
    """How many tokens of each class a latent is active at: codes of 1 where they are above 0."""

    def iou(self) -> Float64[Tensor, "classes latents"]:
        """Of the tokens at which it is active and those of the class; nan for a class not seen."""
        union = self.places[:, None] + self.everywhere - self.inside
        return (self.inside / union).masked_fill(self.places[:, None] == 0, torch.nan)


class Life(NamedTuple):
    """When a latent is active."""

    birth: int | None  # the least noisy timestep at which it lives; None: never
    strongest: int | None
    death: int | None  # the noisiest


class Lifetimes(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        net: Backbone,
        dictionary: str,
        *,
        name: str | None = None,
        block: Block | None = None,
        timestep: Timesteps = None,
        draws: int = 8,
        alive: float = 1e-4,
        class_names: list | tuple = (),
        ignore_label: int | None = None,
        image_size: int | None = None,
        seed: int = 0,
    ) -> None:
        """`draws` of the noise of each picture; a latent lives where its density is `alive`.

        `image_size` is that of the pictures.
        """
        super().__init__()
        at_least(2, "model", draws=draws)
        if not 0 < alive < 1:
            raise UserError(f"model.alive is a share of the tokens, got {alive}: 0.0001")
        self.studied = open_studied(dictionary, net, name, block)
        check_picture_size(image_size, net.image_size, net.name)
        check_encoding(self.studied, "task=lifetimes")
        self.net, self.sae = self.studied.net.requires_grad_(False).eval(), self.studied.sae
        self.draws, self.alive, self.seed = draws, alive, seed
        self.class_names, self.ignore_label = list(class_names), ignore_label
        self.timesteps = self.studied.timesteps if timestep is None else listed(timestep)
        for each in self.timesteps:
            self.net.check_timestep(each)
        sae = self.sae
        self.fits = nn.ModuleList(Sparsity(sae.d_in, sae.latents, sae.mean) for _ in self.timesteps)
        self.steady = nn.ModuleList(Reliability(sae.latents) for _ in self.timesteps)
        classes = max(1, len(self.class_names))
        self.overlaps = nn.ModuleList(TokenOverlap(classes, sae.latents) for _ in self.timesteps)
        self.density = self.reliability = torch.zeros(0, sae.latents, dtype=torch.float64)
        self.iou = torch.zeros(0)
        self.rows: list[Row] = []

    def on_test_start(self) -> None:
        """Begins anew."""
        for metric in (*self.fits, *self.steady, *self.overlaps):
            metric.reset()

    @torch.no_grad()
    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """Some pictures at every timestep, under every noise."""
        images, indices = batch["image"], batch["index"].tolist()
        block = self.studied.block
        for place, t in enumerate(self.timesteps):
            dense_codes = []
            for draw in range(self.draws):
                noise = own_noise(self.seed + draw, indices, images.shape[1:])(t).to(images)
                maps = self.net.features(images, t, [block], noise)[block]
                tokens = maps.permute(0, 2, 3, 1).flatten(0, 2).float()
                codes = self.sae.encode_sparse(tokens)
                given_back = self.sae.decode(codes)
                self.fits[place].update(tokens, given_back, codes.latents, codes.values)
                if draw == 0 and "mask" in batch and self.class_names:
                    labels = token_labels(
                        batch["mask"].long(),
                        tuple(maps.shape[2:]),
                        self.class_names,
                        self.ignore_label,
                    )
                    active = (codes.values > 0).to(codes.values.dtype)
                    overlap = self.overlaps[place]
                    overlap.update(codes.starts, codes.latents, active, labels.flatten())
                dense_codes.append(codes.dense(self.sae.latents))
            self.steady[place].update(torch.stack(dense_codes))

    def on_test_epoch_end(self) -> None:
        """Figures of every timestep, and when each latent lives."""
        fits = [metric.compute() for metric in self.fits]
        self.density = torch.stack([fit.density for fit in fits])
        self.reliability = torch.stack([metric.compute() for metric in self.steady])
        labelled = [int(each.tokens) > 0 for each in self.overlaps]
        self.iou = torch.stack([each.iou() for each in self.overlaps]) if all(labelled) else None
        lives = self.density >= self.alive
        self.rows = []
        for place, (t, fit) in enumerate(zip(self.timesteps, fits, strict=True)):
            alive = lives[place]
            steady = self.reliability[place][alive]
            row = {"timestep": t, "fvu": float(fit.fvu), "l0": float(fit.l0)}
            row |= {"dead": float(fit.dead), "alive": int(alive.sum())}
            row["gamma"] = gamma_of(self.fits[place])
            row["reliability"] = float(steady.nanmedian()) if len(steady) else None
            row |= self._best(place)
            self.rows.append(row)
            for key in ("fvu", "l0", "dead", "reliability", "iou", "iou_own"):
                if row.get(key) is not None:
                    self.log(f"test/t{t:04d}/{key}", float(row[key]))
        self.log("test/always", lives.all(0).double().mean())
        self.log("test/never", (~lives.any(0)).double().mean())
        self.log("test/fvu", torch.tensor([float(fit.fvu) for fit in fits]).mean())

    def _best(self, place: int) -> dict[str, float | None]:
        """Mean IoU with tokens of the class's latent by all timesteps, and by this one's own."""
        if self.iou is None:
            return {"iou": None, "iou_own": None}
        seen = ~self.iou[0].isnan().all(1)
        shared = self.iou.nan_to_num(nan=0).mean(0).argmax(1)
        here = self.iou[place][seen]
        chosen = here.gather(1, shared[seen][:, None])[:, 0]
        return {"iou": float(chosen.mean()), "iou_own": float(here.amax(1).mean())}

    def tables(self) -> dict[str, list[Row]]:
        """By timestep; by latent, those that are born first above; by class its latents in time."""
        latents = []
        for latent in range(self.sae.latents):
            life = life_of(self.density[:, latent], self.timesteps, self.alive)
            row: Row = {"latent": latent, **life._asdict()}
            row |= {
                f"density_t{t:04d}": float(self.density[i, latent])
                for i, t in enumerate(self.timesteps)
            }
            row |= {
                f"reliability_t{t:04d}": float(self.reliability[i, latent])
                for i, t in enumerate(self.timesteps)
            }
            latents.append(row)
        latents.sort(key=lambda row: (row["birth"] is None, row["birth"], row["death"] or 0))
        tables = {"timesteps": self.rows, "lifetimes": latents}
        if self.iou is not None:
            tables["class_latents"] = self._classes()
        return tables

    def _classes(self) -> list[Row]:
        rows = []
        for label, name in enumerate(self.class_names):
            row: Row = {"class": name}
            for place, t in enumerate(self.timesteps):
                values = self.iou[place, label]
                absent = bool(values.isnan().all())
                row[f"latent_t{t:04d}"] = None if absent else int(values.nan_to_num(nan=0).argmax())
                row[f"iou_t{t:04d}"] = None if absent else float(values.nan_to_num(nan=0).max())
            rows.append(row)
        return rows


def life_of(density: Float64[Tensor, " timesteps"], timesteps: list[int], alive: float) -> Life:
    """First, strongest and last timestep at which a latent's density reaches `alive`."""
    order = sorted(range(len(timesteps)), key=lambda i: timesteps[i])
    living = [timesteps[i] for i in order if float(density[i]) >= alive]
    if not living:
        return Life(None, None, None)
    return Life(living[0], timesteps[int(density.argmax())], living[-1])


def gamma_of(fit: Sparsity) -> float:
    """How far the tokens lie off zero, ‖μ‖ / ‖σ‖: as the training says it."""
    tokens = fit.tokens.double()
    offset = fit.first / tokens
    variance = fit.second.sum() / tokens - offset.square().sum()
    return float((offset + fit.mean).norm() / variance.clamp(min=1e-30).sqrt())
