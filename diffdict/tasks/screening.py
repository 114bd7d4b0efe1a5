"""`task=screening`: which latent moves which class, by one pass each, and what predicts that.

Plain pictures are noised to one timestep and denoised once, with one latent changed at a time; all
below the block is computed once. Does IoU predict the effect? Spearman says, beside excess and
average precision; with `chains` the best of them are changed along whole chains, which one pass is
to predict.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from diffdict.backbones.base import Backbone, Block
from diffdict.data.base import Pictures
from diffdict.diffusion.objectives import Objective, interpret
from diffdict.diffusion.samplers import own_noise
from diffdict.diffusion.schedules import Schedule
from diffdict.errors import UserError, at_least
from diffdict.features.codes.studied_dictionary import open_studied
from diffdict.metrics.attributes.rank_correlation import spearman
from diffdict.metrics.concepts.ranking import token_labels
from diffdict.metrics.concepts.token_precision import TokenPrecision
from diffdict.metrics.effects import FEWEST, Effects
from diffdict.metrics.excess import Excess
from diffdict.results.tables import Row
from diffdict.tasks.causality import check_same_classes
from diffdict.tasks.interventions.chains import EditedChains, check_picture_size
from diffdict.tasks.interventions.judge import NEAR, Opener, check_labeller
from diffdict.tasks.lifetimes import TokenOverlap
from diffdict.tasks.substitution import check_encoding

AT_ONCE = 16  # latents whose passes share what lies below
HALVES = 2  # of the seeds: a latent is chosen on one and reported on the other
PREDICTORS = ("iou", "excess", "average_precision", "one_pass")
FEW = 2  # latents that each predictor puts first: whole chains of these, where all are screened


class Predictors(NamedTuple):
    """Of every class and latent, over labelled tokens."""

    iou: Float64[Tensor, "classes latents"]
    excess: Float64[Tensor, "classes latents"]
    average_precision: Float64[Tensor, "classes latents"]
    density: Float64[Tensor, " latents"]


class Screening(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        net: Backbone,
        sampler: partial,
        objective: Objective,
        dictionary: str,
        labeller: Opener | None,
        pictures: Callable[..., Pictures],
        *,
        name: str | None = None,
        block: Block | None = None,
        concept: str | list | None = None,
        candidates: int | None = 8,
        density: float = 1e-3,
        amount: int | float = -6.0,
        timestep: int = 250,
        chains: bool = False,
        labelled_pictures: int = 20,
        seed: int = 0,
    ) -> None:
        """`candidates` of a class: half by excess, half by IoU with tokens, on `pictures`; None:
        all latents that are active at `density` of the tokens or more, and whole chains of those
        alone that a predictor puts first.

        `timestep`: to which plain pictures are noised for the one pass.
        """
        super().__init__()
        at_least(2, "model", candidates=candidates)
        if not 0 <= density < 1:
            raise UserError(f"model.density is a share of the tokens, got {density}: 0.001")
        at_least(1, "model", labelled_pictures=labelled_pictures)
        self.studied = open_studied(dictionary, net, name, block)
        check_encoding(self.studied, "task=screening")
        if not isinstance(self.studied.net.process, Schedule):
            raise UserError(f"task=screening noises along a chain, and {net.name} has none")
        self.net, self.sae = self.studied.net.requires_grad_(False).eval(), self.studied.sae
        self.net.check_timestep(timestep)
        self.labeller = check_labeller(labeller, self.net, "task=screening")
        self.class_names = list(self.labeller.segmenter.class_names)
        concepts = [concept] if isinstance(concept, str) else concept
        self.concepts = self.class_names if concepts is None else concepts
        if strange := [each for each in self.concepts if each not in self.class_names]:
            raise UserError(
                f"concept={strange[0]} is none of the labeller's classes: "
                f"{', '.join(self.class_names)}"
            )
        self.objective, self.seed = Objective(net.predict, "fixed_small"), seed
        self.candidates, self.density = candidates, density
        self.amount, self.timestep = float(amount), timestep
        self.whole = EditedChains(self.studied, sampler, objective, seed)
        self.chains, self.pictures, self.labelled_pictures = chains, pictures, labelled_pictures
        self.pairs: list[tuple[int, int]] = []  # class, latent
        self.chained: set[int] = set()  # places of those whose whole chains are drawn
        self.seeds: list[list[int]] = []  # of every batch
        self.measured = nn.ModuleDict()
        self.rows: list[dict] = []
        self.predictors = Predictors(*[torch.zeros(0, 0, dtype=torch.float64)] * 4)

    def on_test_start(self) -> None:
        """Predictors on labelled training pictures, and the candidates that they name."""
        labelled = self.pictures(split="train")
        check_same_classes(labelled, self.class_names)
        check_picture_size(labelled.image_size, self.net.image_size, self.net.name)
        self.predictors = self._predictors(labelled)
        labels = [self.class_names.index(name) for name in self.concepts]
        self.pairs = [(label, each) for label in labels for each in self._candidates(label)]
        self.chained, self.seeds = set(), []
        kinds = ("one_pass", "chain") if self.chains else ("one_pass",)
        margin = self.net.image_size // NEAR
        self.measured = nn.ModuleDict(
            {
                f"{kind}_{half}": nn.ModuleList(
                    Effects(len(self.class_names), margin) for _ in self.pairs
                )
                for kind in kinds
                for half in range(HALVES)
            }
        ).to(self.device)

    def _candidates(self, label: int) -> list[int]:
        predictors = self.predictors
        if self.candidates is not None:
            return candidates_of(predictors.excess[label], predictors.iou[label], self.candidates)
        unseen = bool(predictors.excess[label].isnan().all())
        return [] if unseen else (predictors.density >= self.density).nonzero()[:, 0].tolist()

    @torch.no_grad()
    def _predictors(self, labelled: Pictures) -> Predictors:
        """Over tokens at the dictionary's timesteps."""
        shape = len(self.class_names), self.sae.latents
        excess, overlap = (kind(*shape).to(self.device) for kind in (Excess, TokenOverlap))
        precision = TokenPrecision(*shape)
        for metric in (excess, overlap):
            metric.sync_on_compute = False  # every rank sees the same pictures
        block = self.studied.block
        for index in range(min(self.labelled_pictures, len(labelled))):
            sample = labelled[index]
            image = sample["image"][None].to(self.device)
            mask = torch.as_tensor(sample["mask"]).long()[None].to(self.device)
            for t in self.studied.timesteps:
                noise = own_noise(self.seed + 1, [index], image.shape[1:])(t).to(image)
                maps = self.net.features(image, t, [block], noise)[block]
                codes = self.sae.encode_sparse(maps.permute(0, 2, 3, 1).flatten(0, 2).float())
                grid = tuple(maps.shape[2:])
                labels = token_labels(mask, grid, self.class_names, labelled.ignore_label).flatten()
                excess.update(*codes, labels)
                active = (codes.values > 0).to(codes.values.dtype)
                overlap.update(codes.starts, codes.latents, active, labels)
                precision.update(*codes, labels)
        return Predictors(
            overlap.iou().cpu(),
            excess.compute().cpu(),
            precision.compute(),
            (overlap.everywhere / overlap.tokens).cpu(),
        )

    def test_step(self, batch: Int[Tensor, " batch"], batch_idx: int) -> None:
        """Some seeds: the plain chain, and one pass for each latent."""
        if not len(batch):
            return
        indices = batch.tolist()
        start = self.whole.begin(indices)
        off = self.whole.draw(indices, start).x
        self._one_pass(off, indices, sorted({latent for _, latent in self.pairs}))
        self.seeds.append(indices)

    @torch.no_grad()
    def _draw_chains(self, indices: list[int]) -> None:
        """The chosen latents along whole chains."""
        start = self.whole.begin(indices)
        before = self.labeller(self.whole.draw(indices, start).x, indices).masks
        for latent in sorted({self.pairs[place][1] for place in self.chained}):
            edits = self.studied.edits([latent], "scale", self.amount)
            on = self.whole.draw(indices, start, edits).x
            self._count("chain", latent, indices, before, self.labeller(on, indices).masks)

    def _one_pass(self, off: Tensor, indices: list[int], latents: list[int]) -> None:
        noise = own_noise(self.seed + 2, indices, off.shape[1:])(self.timestep).to(off)
        x_t, t = self.net.noised(off, self.timestep, noise)
        before = self._seen(x_t, t, indices, [None])[0]
        for start in range(0, len(latents), AT_ONCE):
            some = latents[start : start + AT_ONCE]
            edits = [self.studied.edits([latent], "scale", self.amount) for latent in some]
            for latent, after in zip(some, self._seen(x_t, t, indices, edits), strict=True):
                self._count("one_pass", latent, indices, before, after)

    def _seen(self, x_t: Tensor, t: Tensor, indices: list[int], edits: list) -> list[Tensor]:
        """The labels of what one pass says the pictures are, under each edit."""
        place, masks = t - self.net.first_timestep, []
        for output in self.net.forward_each(x_t, t, self.whole.given(indices), edits):
            picture = interpret(self.objective, self.net.process, output, x_t, place).x0
            masks.append(self.labeller(picture.float().clamp(-1, 1), indices).masks)
        return masks

    def _count(
        self, kind: str, latent: int, indices: list[int], before: Tensor, after: Tensor
    ) -> None:
        """The effect of a latent on its classes, of each half of the seeds by itself."""
        halves = torch.tensor(indices, device=before.device) % HALVES
        for place, (label, pair_latent) in enumerate(self.pairs):
            if pair_latent != latent or (kind == "chain" and place not in self.chained):
                continue
            for half in range(HALVES):
                some = halves == half
                region = before[some] == label
                self.measured[f"{kind}_{half}"][place].update(before[some], after[some], region)

    def on_test_epoch_end(self) -> None:
        """How well each predictor orders the effects, over all pairs and within classes."""
        self.rows = self._rows()
        if self.chains:
            self.chained = {
                place
                for place, row in enumerate(self.rows)
                if self.candidates is not None or row in self._first_of(row["class"])
            }
            for indices in self.seeds:
                self._draw_chains(indices)
            self.rows = self._rows()
        effects = ("one_pass", "chain") if self.chains else ("one_pass",)
        for effect in effects:
            for predictor in PREDICTORS:
                if predictor != effect:
                    over, within = agreement(self.rows, predictor, effect)
                    self.log(f"test/spearman_{predictor}_{effect}", over)
                    self.log(f"test/spearman_{predictor}_{effect}_within", within)
        for predictor in PREDICTORS:
            chosen_effects = [
                row["effect"] for row in self._halves() if row["chosen_by"] == predictor
            ]
            values = torch.tensor(chosen_effects, dtype=torch.float64)
            self.log(f"test/effect_by_{predictor}", values.nanmean())
        self.log("test/pairs", float(len(self.rows)))

    def _first_of(self, name: str) -> list[dict]:
        """The latents of a class that any predictor puts first."""
        rows = [row for row in self.rows if row["class"] == name]
        orders = ([row for row in rows if row[key] == row[key]] for key in PREDICTORS)
        return [
            row
            for key, order in zip(PREDICTORS, orders, strict=True)
            for row in sorted(order, key=lambda row, key=key: -row[key])[:FEW]
        ]

    def _rows(self) -> list[dict]:
        """A row a class and latent: effects over all seeds, and over each half."""
        rows = []
        for place, (label, latent) in enumerate(self.pairs):
            row = {"class": self.class_names[label], "latent": latent}
            for name in PREDICTORS[:-1]:
                row[name] = float(getattr(self.predictors, name)[label, latent])
            row |= self._effects("one_pass", place, label)
            if self.chains:
                row |= self._effects("chain", place, label)
            rows.append(row)
        return rows

    def _effects(self, kind: str, place: int, label: int) -> dict[str, float]:
        """Of one pair, over all seeds and over each half; nan where nothing was drawn."""
        if kind == "chain" and place not in self.chained:
            return dict.fromkeys((kind, f"{kind}_error", "chain_half0", "chain_half1"), torch.nan)
        halves = [self.measured[f"{kind}_{half}"][place].compute() for half in range(HALVES)]
        both = halves[0].joined(halves[1])
        enough = both.pictures >= FEWEST
        return {
            kind: 1 - both.kept(label) if enough else torch.nan,
            f"{kind}_error": both.error(label) if enough else torch.nan,
            **{f"{kind}_half{half}": 1 - counts.kept(label) for half, counts in enumerate(halves)},
            "pictures": both.pictures,
        }

    def _halves(self) -> list[dict]:
        """By class and predictor: the latent chosen, its effect on seeds that did not choose it."""
        effect, rows = "chain" if self.chains else "one_pass", []
        for name in dict.fromkeys(row["class"] for row in self.rows):
            class_rows = [row for row in self.rows if row["class"] == name]
            for predictor in PREDICTORS:
                for half in range(HALVES):
                    chosen = best_of(class_rows, predictor, half)
                    value = torch.nan if chosen is None else chosen[f"{effect}_half{1 - half}"]
                    row = {"class": name, "chosen_by": predictor, "chosen_on": half}
                    latent = None if chosen is None else chosen["latent"]
                    rows.append({**row, "latent": latent, "effect": value})
        return rows

    def tables(self) -> dict[str, list[Row]]:
        """The pairs, those of the largest effect first; what was chosen on half of the seeds."""
        keys = ("chain", "one_pass") if self.chains else ("one_pass",)
        order = lambda row: [-row[key] if row[key] == row[key] else 1.0 for key in keys]  # noqa: E731 - nan last
        return {"latents": sorted(self.rows, key=order), "halves": self._halves()}


def best_of(rows: list[dict], predictor: str, half: int) -> dict | None:
    """The pair that a predictor puts first; one pass is looked at on half of the seeds alone."""
    key = f"one_pass_half{half}" if predictor == "one_pass" else predictor
    candidates = [row for row in rows if row[key] == row[key]]
    return max(candidates, key=lambda row: row[key], default=None)


def candidates_of(
    excess: Float64[Tensor, " latents"], iou: Float64[Tensor, " latents"], number: int
) -> list[int]:
    """Half by excess, half by IoU, each latent once; none for a class that was not seen."""
    if bool(excess.isnan().all()):
        return []
    half = min(number - number // 2, len(excess))
    first = excess.topk(half).indices.tolist()
    ordered = iou.nan_to_num(nan=0).argsort(descending=True, stable=True).tolist()
    return first + [latent for latent in ordered if latent not in first][: number // 2]


def agreement(rows: list[dict], predictor: str, effect: str) -> tuple[float, float]:
    """Spearman's correlation over all pairs, and its mean within classes."""
    over = spearman([row[predictor] for row in rows], [row[effect] for row in rows])
    within = []
    for name in dict.fromkeys(row["class"] for row in rows):
        class_rows = [row for row in rows if row["class"] == name]
        value = spearman(
            [row[predictor] for row in class_rows], [row[effect] for row in class_rows]
        )
        within += [] if value != value else [value]
    return over, sum(within) / len(within) if within else torch.nan
