"""The figures and tables of attributes at many places: what `task=probe_sweep` measures of them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from diffdict.classifiers.attributes.attribute_probes import AttributeFinding, AttributeProbes
from diffdict.data.attributes import Attribute
from diffdict.errors import UserError, at_least
from diffdict.features.codes.code_parts import WHOLE, CodePart
from diffdict.features.pooled import PooledPictures
from diffdict.features.store.shards import Stream
from diffdict.metrics.attributes.attribute_scores import chances, known_pictures

KINDS = (("average_precision", True), ("pearson", False))  # the figure of binary ones; of numbers
Rows = list[dict[str, str | int | float | bool | None]]


class AttributeSweep(nn.Module):
    """Probes of attributes, and what is told of them."""

    def __init__(
        self,
        cells: Sequence[Stream],
        attributes: Sequence[Mapping],
        parts: Sequence[Mapping],
        ridges: Sequence[float],
        random_orders: int,
        seed: int,
    ) -> None:
        super().__init__()
        at_least(0, "model", random_orders=random_orders)
        slices = [CodePart(**part) for part in parts]
        if random_orders and not slices:
            raise UserError(
                f"model.random_orders={random_orders} draws orders of a code's entries, and this "
                "network has no code with parts: leave it out, or give backbone.segments="
            )
        self.attributes = [Attribute(**attribute) for attribute in attributes]
        self.probes = AttributeProbes(cells, self.attributes, slices, ridges, random_orders, seed)
        self.findings: list[AttributeFinding] = []

    def update(self, purpose: int, batch: PooledPictures) -> None:
        """Some pictures, for what their loader's pictures are for."""
        self.probes.update(purpose, batch.vectors, batch.truth)

    def compute(self) -> dict[str, float]:
        """The mean figures of every place that a map of timestep and block can show."""
        self.findings, self.counted = self.probes.compute()
        self.truth = self.probes.truth[-1].every().double()
        self.chances = chances(self.truth, self.probes.binary)
        figures = {}
        for finding in self.findings:
            if finding.place.part is None or finding.place.part.kind == WHOLE:
                cell = self.probes.cells[finding.place.cell].name
                for name, members in self._kinds():
                    figures[f"val/{cell}/{name}"] = float(finding.held_out[members].nanmean())
                    figures[f"test/{cell}/{name}"] = float(finding.figures[members].mean())
                    figures[f"test/{cell}/{name}_random"] = float(self.chances[members].mean())
        return figures

    def _kinds(self) -> list[tuple[str, Tensor]]:
        """The figure of binary attributes and that of numbers, and which count, where any do."""
        kinds = [(name, self.counted & (self.probes.binary == binary)) for name, binary in KINDS]
        return [(name, members) for name, members in kinds if members.any()]

    def tables(self) -> dict[str, Rows]:
        """The means of every place; every attribute at every place; and the best place of each."""
        if not self.findings:
            return {}
        cells = [self._place(one) | self._means(one) for one in self.findings]
        each = [row for one in self.findings for row in self._rows(one)]
        return {"cells": cells, "attributes": each, "best": self._best()}

    def _place(self, finding: AttributeFinding) -> dict[str, str | int | None]:
        """Where, in the columns of a table."""
        cell, part = self.probes.cells[finding.place.cell], finding.place.part
        place = {"timestep": cell.timestep, "block": cell.block}
        if part is None:
            return place | {"channels": cell.channels}
        facts = {"part": part.name, "kind_of_part": part.kind, "begin": part.begin, "end": part.end}
        facts |= {"first_timestep": part.first, "last_timestep": part.last}
        return place | facts | {"channels": part.end - part.begin}

    def _means(self, finding: AttributeFinding) -> dict[str, float | None]:
        """Over binary attributes and over numbers, with their standard errors."""
        row: dict[str, float | None] = {}
        for name, members in self._kinds():
            error = finding.deviations[-2 if name == KINDS[0][0] else -1]
            row |= {
                f"val_{name}": float(finding.held_out[members].nanmean()),
                name: float(finding.figures[members].mean()),
                f"{name}_error": finite(error),
                f"{name}_chance": float(self.chances[members].mean()),
            }
        return row

    def _rows(self, finding: AttributeFinding) -> Rows:
        """A row an attribute."""
        pictures = known_pictures(self.truth, self.probes.binary).tolist()
        rows = []
        for i, attribute in enumerate(self.attributes):
            binary = attribute.kind == "binary"
            errors = [None, None] if binary else [finite(value) for value in finding.errors[i]]
            rows.append(
                {"attribute": attribute.name, "kind": attribute.kind}
                | self._place(finding)
                | {
                    "ridge": finding.ridges[i],
                    "val_score": finite(finding.held_out[i]),
                    "score": finite(finding.figures[i]),
                    "standard_error": finite(finding.deviations[i]),
                    "chance": finite(self.chances[i]),
                    "pictures": pictures[i],
                    "in_mean": bool(self.counted[i]),
                    "mse": errors[0],
                    "r2": errors[1],
                }
            )
        return rows

    def _best(self) -> Rows:
        """The place of each attribute that pictures held out are told best at."""
        held = torch.stack([one.held_out for one in self.findings]).nan_to_num(-2)
        held[:, ~self.counted] = -2
        best = held.argmax(0).tolist()
        rows = [self._rows(self.findings[place])[i] for i, place in enumerate(best)]
        return [row for row in rows if row["in_mean"]]


def finite(value: Float64[Tensor, ""]) -> float | None:
    """A number, or none."""
    return float(value) if value.isfinite() else None
