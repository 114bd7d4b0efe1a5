"""Latents that were switched on in drawing: whether their own code rises in what was drawn."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.conditions.base import ConditionRows, MakesVectors
from diffdict.conditions.latents import check_codes
from diffdict.errors import UserError
from diffdict.metrics.effects.latent_changes import LatentRise, SwitchedPairs, latent_rises
from diffdict.metrics.samples.kernel_distance import ChosenRows
from diffdict.reports.subjects import DrawnLatents
from diffdict.results.tables import Row

TABLE = "latents.csv"  # beside the samples: each line's latent and class
RISEN = 0.05  # p by rank, below which a rise is more than that of random directions


class SwitchedLatents(nn.Module):
    """Pairs of samples with a latent off and on, and the areas of classes in them."""

    def __init__(
        self,
        maker: MakesVectors,
        rows: ConditionRows,
        folder: Path,
        classes: Sequence[str],
        samples: int,
    ) -> None:
        """`classes`: of the samples' masks; none where no labeller looked."""
        super().__init__()
        self.latents = check_codes(maker).latents
        self.pairs = SwitchedPairs.of(rows.line, rows.latent, rows.strength, rows.start)
        for latent in self.pairs.latents:
            if latent >= 0 and latent not in self.latents:
                raise UserError(
                    f"Latent {latent} was switched in {folder}, and {maker.name} has it not: "
                    "representation.latents=null"
                )
        self.lines, self.classes = read_lines(folder), list(classes)
        self.areas, self.change = ChosenRows(samples, samples), ChosenRows(samples, samples)
        self.measured: list[Row] = []

    def reset(self) -> None:
        """Begins anew."""
        for metric in (self.areas, self.change):
            metric.reset()

    def update(self, batch: Mapping) -> None:
        """Some samples: their pixels, and the area of every class."""
        self.change.update(batch["image"].flatten(1), batch["index"])
        if self.classes:
            labels = batch["mask"].flatten(1)
            areas = [(labels == label).float().mean(1) for label in range(len(self.classes))]
            self.areas.update(torch.stack(areas, dim=1), batch["index"])

    def tables(
        self, drawn: Float[Tensor, "n d"], real: Float[Tensor, "m d"], by: Mapping
    ) -> tuple[dict[str, float | None], dict[str, list[Row]]]:
        """All together, and a row a latent; `real` say what a deviation is."""
        rises = latent_rises(self.pairs, drawn, self.latents, real.std(0, correction=0))
        pixels = self.change.compute().cpu()
        moved = (pixels[self.pairs.on] - pixels[self.pairs.off]).square().mean((1, 2)).sqrt()
        areas = self.pairs.change(self.areas.compute().cpu()) if self.classes else None
        random = torch.tensor([latent < 0 for latent in self.pairs.latents])
        lines = (~random).nonzero()[:, 0].tolist()
        self.measured = [
            {
                "latent": one.latent,
                "class": self.lines[line]["class"] or None,
                "length": float(self.lines[line]["length"]),
                **one._asdict(),
                "of": len(self.latents),
                "rises": one.rise > 0 and (one.p is None or one.p <= max(RISEN, self._least)),
                "pixels": float(moved[line]),
                "pixels_null": float(moved[random].mean()) if random.any() else None,
                **self._area(areas, line, random),
            }
            for line, one in zip(lines, rises, strict=True)
        ]
        figures = self._figures(rises)
        summary = {**by, "latents": len(rises), "random": int(random.sum()), **figures}
        return figures, {"faithfulness": [summary], "latents": self.measured}

    @property
    def _least(self) -> float:
        """The smallest p that there can be."""
        return 1 / (1 + sum(latent < 0 for latent in self.pairs.latents))

    def _figures(self, rises: Sequence[LatentRise]) -> dict[str, float | None]:
        ranks = torch.tensor([one.rank for one in rises]).double()
        beyond = [row["area_beyond"] for row in self.measured if row["area_beyond"] is not None]
        return {
            "rise": sum(one.rise for one in rises) / len(rises),
            "risen": sum(one.rise > 0 for one in rises) / len(rises),
            "beyond_random": sum(row["rises"] for row in self.measured) / len(rises),
            "median_rank": float(ranks.quantile(0.5)),
            "rank_share": float(ranks.quantile(0.5)) / len(self.latents),
            "areas_beyond_random": sum(beyond) / len(beyond) if beyond else None,
        }

    def _area(self, areas: Tensor | None, line: int, random: Tensor) -> dict[str, float | None]:
        """Of the latent's class: its change, that of random directions, whether it is larger."""
        concept = self.lines[line]["class"]
        if areas is None or concept not in self.classes:
            return {"area": None, "area_null": None, "area_beyond": None}
        column = areas[:, self.classes.index(concept)]
        null = column[random].abs()
        return {
            "area": float(column[line]),
            "area_null": float(null.mean()) if len(null) else None,
            "area_beyond": bool(column[line].abs() > null.median()) if len(null) else None,
        }

    def drawn(self, real: Float[Tensor, "m d"], maker: MakesVectors) -> DrawnLatents:
        """What a page shows of them."""
        codes = check_codes(maker)
        return DrawnLatents(codes.sae, codes.maps, self.latents, real, self.measured, self.pairs)


def read_lines(folder: Path) -> list[dict[str, str]]:
    """The table of lines beside the samples."""
    try:
        with (folder / TABLE).open(newline="") as file:
            lines = list(csv.DictReader(file))
        _ = [(line["class"], float(line["length"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f"{folder / TABLE} is not there, or was changed ({error!r}): draw the samples anew in "
            "another folder"
        ) from error
    return lines
