"""Which latent is which class: chosen on one split, reported on another, beside what chance finds.

Among thousands of latents the best of any class looks good on the pictures that it was chosen on.
So the figures that count are those of other pictures; and two nulls stand beside them: random
directions, as many, and the same selection on masks that belong to other pictures.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.metrics.concepts.matching import match_rows
from diffdict.metrics.concepts.overlap import Counts, OverlapFigures, fit

NONE = -1  # in place of a latent or a class
APART = 0x6E756C6C  # from a dictionary's start of the same seed, which is random directions too


class Choice(NamedTuple):
    """A latent for each class, and which of its thresholds."""

    latents: Int64[Tensor, " classes"]  # NONE where no latent ever meets the class
    thresholds: Int64[Tensor, " classes"]


class BestClass(NamedTuple):
    """A class for each latent."""

    classes: Int64[Tensor, " latents"]  # NONE for latents that meet no class
    thresholds: Int64[Tensor, " latents"]
    score: Float64[Tensor, " latents"]  # 0 for those


class ClassFigures(NamedTuple):
    """A line of the table."""

    name: str
    latent: int
    threshold: int
    train: OverlapFigures
    test: OverlapFigures


class Report(NamedTuple):
    """One choice, seen on the pictures that it was made on and on others."""

    class_names: tuple[str, ...]
    choice: Choice
    train: OverlapFigures  # [classes]
    test: OverlapFigures
    absent_train: list[str]  # classes that could not be chosen for
    absent_test: list[str]  # classes that could not be tested

    @property
    def rows(self) -> list[ClassFigures]:
        """The table, class by class."""
        latents, thresholds = (each.tolist() for each in self.choice)
        train, test = zip(*self.train, strict=True), zip(*self.test, strict=True)
        lines = zip(self.class_names, latents, thresholds, train, test, strict=True)
        return [
            ClassFigures(name, latent, at, OverlapFigures(*before), OverlapFigures(*after))
            for name, latent, at, before, after in lines
        ]

    @property
    def mean_train(self) -> OverlapFigures:
        """Over the classes that both splits have, so that the two means compare."""
        return self._mean(self.train)

    @property
    def mean_test(self) -> OverlapFigures:
        """Over the same classes."""
        return self._mean(self.test)

    def _mean(self, figures: OverlapFigures) -> OverlapFigures:
        both = ~(self.train.iou.isnan() | self.test.iou.isnan())
        return OverlapFigures(*(each[both].mean() for each in figures))


def choose(train: Counts, by: str = "iou", threshold: int | None = None, place: int = 0) -> Choice:
    """The best latent of each class, and its best threshold unless one is given for all.

    `place` 1 is the runner-up. Of equal latents the first is taken.
    """
    score, where = train.best(by, threshold)
    if not 0 <= place < score.shape[1]:
        raise UserError(f"There are {score.shape[1]} latents, so none comes in place {place}")
    best, latents = score.nan_to_num(nan=0).sort(dim=1, descending=True, stable=True)
    thresholds = where.gather(1, latents[:, place, None])[:, 0]
    return _settled(best[:, place], latents[:, place], thresholds)


def match(train: Counts, by: str = "iou", threshold: int | None = None) -> Choice:
    """The same, but no latent for two classes: the largest sum of scores."""
    score, where = train.best(by, threshold)
    score = score.nan_to_num(nan=0)
    rows = torch.from_numpy(match_rows(score.cpu().numpy())).to(score.device)
    latents = rows.clamp(min=0)
    best = score.gather(1, latents[:, None])[:, 0].masked_fill(rows < 0, 0)
    return _settled(best, latents, where.gather(1, latents[:, None])[:, 0])


def _settled(best: Tensor, latents: Tensor, thresholds: Tensor) -> Choice:
    """A score of 0 chooses nothing: that latent is as good as any other."""
    none = best == 0
    return Choice(latents.masked_fill(none, NONE), thresholds.masked_fill(none, 0))


def best_class(counts: Counts, by: str = "iou", threshold: int | None = None) -> BestClass:
    """The class that each latent fits best."""
    score, where = counts.best(by, threshold)
    best, classes = score.nan_to_num(nan=0).max(0)
    thresholds = where.gather(0, classes[None])[0]
    return BestClass(*_settled(best, classes, thresholds), best)


def choice_figures(choice: Choice, counts: Counts) -> OverlapFigures:
    """Figures [classes] of a choice on any split; 0 for classes without a latent."""
    none, latents = choice.latents == NONE, choice.latents.clamp(min=0)
    classes = torch.arange(len(latents), device=latents.device)
    both = counts.intersections[choice.thresholds, classes, latents].masked_fill(none, 0)
    active = counts.active[choice.thresholds, latents].masked_fill(none, 0)
    return fit(both, active, counts.pixels)


def report(choice: Choice, train: Counts, test: Counts) -> Report:
    """The choice on both splits."""
    if train.class_names != test.class_names:
        raise UserError(
            f"The splits name different classes: {list(train.class_names)} and "
            f"{list(test.class_names)}"
        )
    return Report(
        train.class_names,
        choice,
        choice_figures(choice, train),
        choice_figures(choice, test),
        train.absent,
        test.absent,
    )


def random_directions(
    number: int, d_in: int, seed: int = 0, device: torch.device | str = "cpu"
) -> Float[Tensor, "number d_in"]:
    """Unit vectors in no particular direction: an encoder without a dictionary.

    Its codes need the dictionary's own rule: among as many, the same k ranked; or floors with the
    dictionary's densities (`ActivationHistogram.thinned`).
    """
    generator = torch.Generator().manual_seed(seed ^ APART)
    rows = torch.randn(number, d_in, generator=generator)
    return F.normalize(rows, dim=1).to(device)


def exchanged(pictures: int, seed: int = 0) -> Int64[Tensor, " pictures"]:
    """Whose mask each picture gets in the null: never its own, the same for a seed."""
    if pictures < 2:
        raise UserError(f"Masks are exchanged between at least 2 pictures, got {pictures}")
    order = torch.randperm(pictures, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))
