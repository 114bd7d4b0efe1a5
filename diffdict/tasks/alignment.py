"""`task=alignment`: which latents of several dictionaries are the same, by codes at one place.

Two seeds of one timestep say how alike two dictionaries can be (ceiling), codes of other pictures
what a matching finds in nothing (floor).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.base import Backbone
from diffdict.diffusion.samplers import own_noise
from diffdict.errors import UserError
from diffdict.features.codes.studied_dictionary import StudiedDictionary, open_studied
from diffdict.metrics.matching import CodeCorrelation, MatchedLatents, matched_latents
from diffdict.results.tables import Row
from diffdict.tasks.interventions.chains import check_picture_size
from diffdict.tasks.substitution import check_encoding

SAME, OTHER = "same", "other"  # codes at the same places; of other pictures


class Alignment(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        net: Backbone,
        dictionary: str | Sequence[str],
        *,
        name: str | None = None,
        same_seed: bool = False,
        image_size: int | None = None,
        seed: int = 0,
    ) -> None:
        """`name`: of several dictionaries of a run, which. `same_seed`: compares those that began
        from one seed too, whose latents are alike from the start. `image_size` is that of the
        pictures."""
        super().__init__()
        self.paths = [dictionary] if isinstance(dictionary, str) else list(map(str, dictionary))
        if len(self.paths) < 2:
            raise UserError(
                f"task=alignment compares two dictionaries or more, got {dictionary}: "
                "dictionary=[outputs/a,outputs/b]"
            )
        self.seed = seed
        check_picture_size(image_size, net.image_size, net.name)
        self.studied = [open_studied(path, net, name) for path in self.paths]
        for each in self.studied:
            check_encoding(each, "task=alignment")
        self.net = self.studied[0].net.requires_grad_(False).eval()
        self.saes = nn.ModuleList(each.sae for each in self.studied)
        grids = {self.net.shapes[each.block][1:] for each in self.studied}
        if len(grids) > 1:
            raise UserError(
                "Codes are compared at the same places, and the maps of these dictionaries are of "
                f"{' and '.join(f'{h}×{w}' for h, w in sorted(grids))}: take blocks of one size"
            )
        self.pairs = list(combinations(range(len(self.studied)), 2))
        if not same_seed:
            for pair in self.pairs:
                check_seeds(*(self.studied[i] for i in pair), *(self.paths[i] for i in pair))
        self.measured = nn.ModuleList(
            nn.ModuleDict(
                {
                    kind: CodeCorrelation(*(self.studied[i].sae.latents for i in pair))
                    for kind in (SAME, OTHER)
                }
            )
            for pair in self.pairs
        )
        self.matches: list[dict[str, MatchedLatents]] = []

    def on_test_start(self) -> None:
        """Begins anew."""
        for metrics in self.measured:
            for metric in metrics.values():
                metric.reset()

    @torch.no_grad()
    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """Some pictures as every dictionary sees them, at its own timestep and block."""
        images, indices = batch["image"], batch["index"].tolist()
        codes = [self._codes(each, images, indices) for each in self.studied]
        for (first, second), metrics in zip(self.pairs, self.measured, strict=True):
            metrics[SAME].update(codes[first].flatten(0, 1), codes[second].flatten(0, 1))
            if len(indices) > 1:
                other = codes[second].roll(1, 0).flatten(0, 1)
                metrics[OTHER].update(codes[first].flatten(0, 1), other)

    def _codes(
        self, studied: StudiedDictionary, images: Tensor, indices: list[int]
    ) -> Float[Tensor, "pictures tokens latents"]:
        t, block = studied.timesteps[0], studied.block
        noise = own_noise(self.seed, indices, images.shape[1:])(t).to(images)
        maps = self.net.features(images, t, [block], noise)[block]
        tokens = maps.permute(0, 2, 3, 1).flatten(0, 2).float()
        return studied.sae.encode(tokens).unflatten(0, (len(images), -1))

    def on_test_epoch_end(self) -> None:
        """Matches every pair; the ceiling is a mean over pairs that differ in their seeds alone."""
        self.matches = [
            {kind: matched_latents(m.compute()) for kind, m in metrics.items() if m.tokens > 1}
            for metrics in self.measured
        ]
        rows = self._rows()
        for key, chosen in (
            ("matched", [row["matched"] for row in rows if not row["ceiling"]]),
            ("ceiling", [row["matched"] for row in rows if row["ceiling"]]),
            ("floor", [row["floor"] for row in rows if row["floor"] is not None]),
        ):
            self.log(f"test/{key}", torch.tensor(chosen, dtype=torch.float64).nanmean())

    def _rows(self) -> list[Row]:
        rows = []
        for (first, second), matches in zip(self.pairs, self.matches, strict=True):
            one, other = self.studied[first], self.studied[second]
            place = [(each.timesteps[0], each.block) for each in (one, other)]
            floor = matches[OTHER].mean if OTHER in matches else None
            row: Row = {"first": self.paths[first], "second": self.paths[second]}
            row |= {"timesteps": f"{place[0][0]} {place[1][0]}"}
            row |= {"blocks": f"{place[0][1]} {place[1][1]}", "matched": matches[SAME].mean}
            above = (matches[SAME].correlations > 0.5).double().mean()
            row |= {"above_half": float(above), "floor": floor}
            rows.append({**row, "ceiling": place[0] == place[1]})
        return rows

    def tables(self) -> dict[str, list[Row]]:
        """A row a pair of dictionaries, and one a latent with its partner."""
        latents = []
        for (first, second), matches in zip(self.pairs, self.matches, strict=True):
            same = matches[SAME]
            columns = zip(same.partners.tolist(), same.correlations.tolist(), strict=True)
            for latent, (partner, value) in enumerate(columns):
                row: Row = {"first": self.paths[first], "second": self.paths[second]}
                row |= {"latent": latent, "partner": None if partner < 0 else partner}
                latents.append({**row, "correlation": value})
        return {"alignment": self._rows(), "partners": latents}


def check_seeds(one: StudiedDictionary, other: StudiedDictionary, *paths: str) -> None:
    """Refuses two runs that began alike: matched latents would say that they did."""
    seeds = [each.card.get("seed") for each in (one, other)]
    alike = one.sae.W_dec.shape == other.sae.W_dec.shape
    if alike and seeds[0] is not None and seeds[0] == seeds[1]:
        raise UserError(
            f"{paths[0]} and {paths[1]} began from one seed ({seeds[0]}), and their latents are "
            "alike from the start: learn one with another seed=, or say model.same_seed=true"
        )
