"""Probes of attributes in closed form, at every place of features and every part of a code."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torchmetrics.utilities.data import dim_zero_cat

from diffdict.data.attributes import Attribute
from diffdict.features.codes.code_parts import CODE, PREFIX, CodePart
from diffdict.features.store.shards import Stream
from diffdict.metrics.accuracy import DRAWS
from diffdict.metrics.attributes.attribute_scores import (
    attribute_figures,
    best_ridges,
    measurable,
    say_left_out,
    squared_errors,
)
from diffdict.metrics.attributes.ridge import AttributeSums, RidgeGroup
from diffdict.metrics.base import ExactMetric
from diffdict.seeds import permutation, resamples

FIT, CHOOSE, TEST = range(3)  # what pictures are for
RANDOM = "random"  # a prefix of the code's entries in an order that was drawn


class AttributePlace(NamedTuple):
    """Where attributes are read: a map, or a part of a code."""

    cell: int
    part: CodePart | None = None  # None: all of the map
    order: int | None = None  # of a random prefix: which of the drawn orders


class AttributeFinding(NamedTuple):
    """How well each attribute is read at one place."""

    place: AttributePlace
    ridges: list[float]
    held_out: Float64[Tensor, " attributes"]  # what the ridges were chosen by
    figures: Float64[Tensor, " attributes"]  # on the test pictures
    errors: Float64[Tensor, "attributes two"]  # of numbers: mean squared, and R²
    deviations: Float64[Tensor, " attributes_and_means"]  # standard errors; of the means last


class PictureRows(ExactMetric):
    """Rows of pictures as they came, on any ranks."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, rows: Float[Tensor, "pictures columns"]) -> None:
        """Some pictures' rows."""
        self.rows.append(rows.float())

    def compute(self) -> Float[Tensor, "pictures columns"]:
        """All of them."""
        return dim_zero_cat(self.rows)

    def every(self) -> Float[Tensor, "pictures columns"]:
        """The same, whatever torchmetrics squeezed."""
        return self.compute().view(-1, self.width)


class AttributeProbes(nn.Module):
    """Sums up what probes are fitted on, keeps what chooses their ridge and what tests them."""

    def __init__(
        self,
        cells: Sequence[Stream],
        attributes: Sequence[Attribute],
        parts: Sequence[CodePart] = (),
        ridges: Sequence[float] = (1e-2,),
        random_orders: int = 0,
        seed: int = 0,
    ) -> None:
        """`parts` are those of the map of block `code`; `random_orders` of its entries are drawn,
        whose prefixes are as wide: what a part's place is worth is what it has beyond them."""
        super().__init__()
        self.cells, self.attributes, self.ridges = list(cells), list(attributes), list(ridges)
        self.binary = torch.tensor([one.kind == "binary" for one in attributes], dtype=torch.bool)
        names = {part.name for part in parts}
        self.used = [i for i, cell in enumerate(cells) if cell.block not in names - {CODE}]
        self.parts, self.seed = list(parts), seed
        self.orders = range(random_orders if parts else 0)
        self.sums = nn.ModuleList(
            AttributeSums(cells[i].channels, len(attributes)) for i in self.used
        )
        widths = [cells[i].channels for i in self.used]
        self.held = nn.ModuleList(map(PictureRows, widths))
        self.test = nn.ModuleList(map(PictureRows, widths))
        self.truth = nn.ModuleList(PictureRows(len(attributes)) for _ in (FIT, CHOOSE, TEST))

    def update(
        self,
        purpose: int,
        vectors: Sequence[Float[Tensor, "pictures _"]],
        truth: Float[Tensor, "pictures attributes"],
    ) -> None:
        """Some pictures, a vector a map."""
        self.truth[purpose].update(truth)
        for i, sums, held, test in zip(self.used, self.sums, self.held, self.test, strict=True):
            if purpose == FIT:
                sums.update(vectors[i], truth)
            else:
                (held if purpose == CHOOSE else test).update(vectors[i])

    def compute(self) -> tuple[list[AttributeFinding], Bool[Tensor, " attributes"]]:
        """The findings at every place, and which attributes fit and test pictures tell apart."""
        fit, held, test = (rows.every().double() for rows in self.truth)
        names = [one.name for one in self.attributes]
        counted = measurable(fit, self.binary)
        say_left_out(names, counted, "fitted on")
        both = counted & measurable(test, self.binary)
        say_left_out(
            [n for n, k in zip(names, counted.tolist(), strict=True) if k],
            both[counted],
            "tested on",
        )
        findings = []
        for k in range(len(self.used)):
            findings += self._of_cell(k, held, test)
        return findings, both

    def _of_cell(
        self,
        k: int,
        held: Float64[Tensor, "held attributes"],
        test: Float64[Tensor, "_ attributes"],
    ) -> list[AttributeFinding]:
        """Every place of one map: ridges chosen, then all but the test pictures fitted on."""
        places, rows = self._places(k), self.held[k].every()
        chosen = [
            best_ridges(each, held, self.binary)
            for each in self._scores(self.sums[k].groups(), places, rows)
        ]
        local = dim_zero_cat(self.held[k].rows)
        self.sums[k].update(local, dim_zero_cat(self.truth[CHOOSE].rows))
        groups, rows = self.sums[k].groups(), self.test[k].every()
        findings = []
        every = zip(places, chosen, self._scores(groups, places, rows), strict=True)
        for place, (ridge, figure), each in every:
            scores = each.gather(1, ridge[None, None].expand(len(each), 1, -1))
            findings.append(
                AttributeFinding(
                    place,
                    [self.ridges[i] for i in ridge.tolist()],
                    figure,
                    attribute_figures(scores, test, self.binary)[0],
                    squared_errors(scores, test)[0],
                    self._deviations(place, scores, test),
                )
            )
        return findings

    def _places(self, k: int) -> list[AttributePlace]:
        """Of a map itself; of a code its parts, prefixes last and together."""
        cell = self.used[k]
        if self.cells[cell].block != CODE or not self.parts:
            return [AttributePlace(cell)]
        prefixes = [part for part in self.parts if part.kind == PREFIX]
        places = [AttributePlace(cell, part) for part in self.parts if part.kind != PREFIX]
        places += [AttributePlace(cell, part) for part in prefixes]
        return places + [
            AttributePlace(
                cell, part._replace(name=f"{RANDOM}{order}-{part.end}", kind=RANDOM), order
            )
            for order in self.orders
            for part in prefixes
        ]

    def _scores(
        self,
        groups: Sequence[RidgeGroup],
        places: Sequence[AttributePlace],
        rows: Float[Tensor, "pictures channels"],
    ) -> Iterator[Float[Tensor, "pictures ridges attributes"]]:
        """What the probes of all ridges say, one place after the other: never all at once."""
        standard = [group.standardized(rows) for group in groups]
        nested: list[AttributePlace] = []
        for place in places:
            if place.part is not None and place.part.kind in (PREFIX, RANDOM):
                nested.append(place)
                continue
            part = slice(None) if place.part is None else slice(place.part.begin, place.part.end)
            yield self._together(
                groups,
                [
                    [group.scores(x, ridge, part) for ridge in self.ridges]
                    for group, x in zip(groups, standard, strict=True)
                ],
            )
        for order in (None, *self.orders) if nested else ():
            ends = [place.part.end for place in nested if place.order == order]
            each = []
            for group, x in zip(groups, standard, strict=True):
                if order is not None:
                    columns = permutation(rows.shape[1], self.seed, order)
                    group, x = group.permuted(columns), x[:, columns]  # one copy for all ridges
                each.append([group.prefix_scores(x, ridge, ends) for ridge in self.ridges])
            for _ in ends:
                yield self._together(groups, [[next(one) for one in of] for of in each])

    def _together(
        self, groups: Sequence[RidgeGroup], scores: Sequence[Sequence[Tensor]]
    ) -> Float[Tensor, "pictures ridges attributes"]:
        """The attributes of all groups in their own order, in float32: of many pictures many."""
        first = scores[0][0]
        sizes = len(first), len(scores[0]), len(self.attributes)
        out = torch.empty(sizes, device=first.device)
        for group, group_scores in zip(groups, scores, strict=True):
            for ridge, answers in enumerate(group_scores):
                out[:, ridge, group.attributes] = answers.float()
        return out.cpu()

    def _deviations(
        self, place: AttributePlace, scores: Tensor, test: Float64[Tensor, "pictures attributes"]
    ) -> Float64[Tensor, " attributes_and_means"]:
        """Over pictures drawn again, of each attribute and of the means over binary and numbers.

        Of the many nested prefixes and single segments none.
        """
        n = len(self.attributes)
        if place.part is not None and place.part.kind in (PREFIX, RANDOM, "segment"):
            return torch.full((n + 2,), torch.nan, dtype=torch.float64)

        def figures(rows: Int64[Tensor, " pictures"]) -> Float64[Tensor, " attributes_and_means"]:
            each = attribute_figures(scores[rows], test[rows], self.binary)[0]
            means = [each[kind].nanmean() for kind in (self.binary, ~self.binary)]
            return torch.cat([each, torch.stack(means)])

        samples = resamples(len(test), DRAWS // 2)
        return torch.stack([figures(rows) for rows in samples]).std(0)
