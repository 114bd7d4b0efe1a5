"""The concept test: latents are chosen for classes on training pictures and tested on others.

There are three passes over whole pictures: over the training pictures to count every latent ×
class, over them again for unions of the best latents, and over the test pictures. Every state is a
sum or a list of the k largest, so the result does not depend on the number of ranks, and memory
does not grow with pixels × latents.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffdict.errors import UserError
from diffdict.features.whole_pictures import LabelledPicture
from diffdict.metrics.concepts.activations import ActivationHistogram, Activations, find_floors
from diffdict.metrics.concepts.assignment import (
    NONE,
    Choice,
    Report,
    choose,
    match,
    random_directions,
    report,
)
from diffdict.metrics.concepts.findings import Findings, Together
from diffdict.metrics.concepts.overlap import Concepts, Counts
from diffdict.metrics.concepts.pre_activations import Encode, pre_of
from diffdict.metrics.concepts.ranking import IGNORED, TopLabels, rank, token_labels
from diffdict.metrics.concepts.unions import Unions, candidates
from diffdict.metrics.excess import Excess, most_in_excess
from diffdict.metrics.features.timestep_parts import length_shares
from diffdict.sae.base import Sae

CHOOSE, UNITE, TEST = range(3)  # the passes over pictures
COMPONENTS = 256  # largest number of principal components
CANDIDATES = 12  # latents that a class's union is grown from


class Rule(NamedTuple):
    """Directions, and the thresholds above which they count as active."""

    encode: Encode  # raw tokens to pre-activations, affine
    thresholds: Float[Tensor, "latents thresholds"]
    ranked: int | None


class OverlapCounts:
    """Overlap of active areas with masks, on training and on test pictures."""

    def __init__(self, rule: Rule, class_names: Sequence[str], ignore_label: int | None) -> None:
        self.rule = rule
        self.areas = {walk: _count(rule, class_names, ignore_label) for walk in (CHOOSE, TEST)}

    def counts(self) -> tuple[Counts, Counts]:
        """The counts of all ranks: training and test."""
        return self.areas[CHOOSE].compute(), self.areas[TEST].compute()


class DictionaryMeasures:
    """What is measured of dictionaries, not of baselines: ranking, unions, activations, excess."""

    def __init__(
        self, sae: Sae, rule: Rule, class_names: Sequence[str], ignore_label: int | None
    ) -> None:
        floors, device = rule.thresholds[:, 0], rule.thresholds.device
        self.sae, self.rule = sae, rule
        self.class_names, self.ignore_label = class_names, ignore_label
        self.excess = Excess(len(class_names), sae.latents).to(device)
        self.tokens = {walk: _count(rule, class_names, IGNORED) for walk in (CHOOSE, TEST)}
        self.top = TopLabels(class_names, floors, ranked=rule.ranked).to(device)
        self.activity = Activations(floors, ranked=rule.ranked).to(device)
        self.unions: dict[int, Unions] = {}

    def begin_unions(self, train: Counts) -> None:
        """Prepares unions of the same candidates for training and for test pictures."""
        thresholds = self.rule.thresholds
        latents = candidates(train, thresholds, CANDIDATES)
        options = {"ranked": self.rule.ranked, "ignore_label": self.ignore_label}
        for walk in (UNITE, TEST):
            metric = Unions(self.class_names, latents, len(thresholds), **options)
            self.unions[walk] = metric.to(thresholds.device)

    def unite(self, most: int) -> list[Together]:
        """Each class's union of at most `most` latents, grown on the training pictures."""
        before, after = (self.unions[walk].compute() for walk in (UNITE, TEST))
        grown = before.grow(most)
        slots = [union.slots for union in grown]
        ious = zip(before.iou(slots).tolist(), after.iou(slots).tolist(), strict=True)
        return [Together(u.latents, *pair) for u, pair in zip(grown, ious, strict=True)]


class ConceptTest:
    """Compares named dictionaries and their baselines with the masks of whole pictures."""

    def __init__(
        self,
        saes: Mapping[str, Sae],
        sample: Callable[[], Iterable[Float[Tensor, "_ d_in"]]],
        mean: Float[Tensor, " d_in"],
        class_names: Sequence[str],
        ignore_label: int | None,
        parts: Mapping[int, slice] = MappingProxyType({}),
        *,
        quantiles: Sequence[float | int] = (0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98),
        union: int = 4,
        baselines: bool = True,
        seed: int = 0,
    ) -> None:
        """`sample` yields the same tokens at every call; baselines are centred on their `mean`.

        `quantiles` of a latent's own activations are its thresholds; the first is 0, its floor.
        `parts`: of concatenated timesteps which columns are whose.
        """
        quantiles = [float(share) for share in quantiles]
        _check(quantiles, union)
        self.class_names, self.ignore_label = tuple(class_names), ignore_label
        self.union, self.walk, self.parts = union, CHOOSE, parts
        self.overlaps: dict[str, OverlapCounts] = {}
        self.measures: dict[str, DictionaryMeasures] = {}
        for name, sae in saes.items():
            floors = find_floors(
                sae.activate, sae.latents, ranked=sae.ranked, device=sae.W_enc.device
            )
            histogram = activation_histogram(sae.pre, floors, sae.ranked, sample)
            rule = self._add_overlap(name, sae.pre, histogram, sae.ranked, quantiles)
            self.measures[name] = DictionaryMeasures(sae, rule, self.class_names, ignore_label)
            if baselines:
                rows = random_directions(sae.latents, len(mean), seed, mean.device)
                encode, zeros = projection(rows, mean), torch.zeros_like(histogram.floors)
                random = activation_histogram(encode, zeros, sae.ranked, sample)
                shares = quantiles if sae.ranked else match_density(quantiles, random, histogram)
                self._add_overlap(f"{name}/random", encode, random, sae.ranked, shares)
        channels = torch.eye(len(mean), device=mean.device)
        for name in ("channels", "pca") if baselines else ():
            rows = channels if name == "channels" else components(sample(), mean)
            encode = projection(torch.cat([rows, -rows]), mean)
            zeros = mean.new_zeros(2 * len(rows))
            histogram = activation_histogram(encode, zeros, None, sample)
            self._add_overlap(name, encode, histogram, None, quantiles)

    def _add_overlap(
        self,
        name: str,
        encode: Encode,
        histogram: ActivationHistogram,
        ranked: int | None,
        shares: Sequence[float] | Float[Tensor, "latents thresholds"],
    ) -> Rule:
        rule = Rule(encode, histogram.quantiles(shares), ranked)
        self.overlaps[name] = OverlapCounts(rule, self.class_names, self.ignore_label)
        return rule

    @torch.no_grad()
    def see(self, walk: int, picture: LabelledPicture) -> None:
        """Counts one picture; `walk` is the pass it belongs to, and passes come in order."""
        self.advance_to(walk)
        ((grid, tokens),) = picture.maps.groups.items()
        maps, mask = tokens.unflatten(1, grid), picture.mask[None]
        other = None if picture.other is None else picture.other[None]
        with torch.autocast(tokens.device.type, enabled=False):
            if walk != UNITE:
                for name, overlap in self.overlaps.items():
                    null = other if name in self.measures else None
                    overlap.areas[walk].update(pre_of(overlap.rule.encode, maps), mask, null)
                labels = token_labels(mask, grid, self.class_names, self.ignore_label)
            for measure in self.measures.values():
                pre = pre_of(measure.rule.encode, maps)
                if walk != CHOOSE:
                    measure.unions[walk].update(pre, mask)
                if walk != UNITE:
                    measure.tokens[walk].update(pre, labels)
                if walk == CHOOSE:
                    codes = measure.sae.encode_sparse(maps.flatten(0, 2))
                    measure.excess.update(*codes, labels.flatten())
                if walk == TEST:
                    measure.top.update(pre, labels)
                    measure.activity.update(pre)

    def advance_to(self, walk: int) -> None:
        """Goes to this pass; all ranks do so in the same order, even without a picture in one."""
        if self.walk == CHOOSE and walk > CHOOSE:
            for name, measure in self.measures.items():
                measure.begin_unions(self.overlaps[name].areas[CHOOSE].compute())
        self.walk = walk

    def findings(self) -> dict[str, Findings]:
        """The results of all ranks together, by dictionary."""
        self.advance_to(TEST)
        shared = {name: self._report(name) for name in ("channels", "pca") if name in self.overlaps}
        return {name: self._findings(name, shared) for name in self.measures}

    def _report(self, name: str) -> Report:
        train, test = self.overlaps[name].counts()
        return report(choose(train), train, test)

    def _findings(self, name: str, baselines: dict[str, Report]) -> Findings:
        measure, (train, test) = self.measures[name], self.overlaps[name].counts()
        if f"{name}/random" in self.overlaps:
            baselines = {"random": self._report(f"{name}/random"), **baselines}
        if train.null is not None and test.null is not None:
            permuted = report(choose(train.null), train.null, test.null)
            baselines = {"permuted": permuted, **baselines}
        ordered = (measure.tokens[walk].compute() for walk in (CHOOSE, TEST))
        return Findings(
            class_names=self.class_names,
            thresholds=measure.rule.thresholds,
            ranked=measure.rule.ranked,
            train=train,
            test=test,
            best=report(choose(train), train, test),
            zero=report(choose(train, threshold=0), train, test),
            matched=report(match(train), train, test),
            second=runners_up(train),
            unions=measure.unite(self.union),
            activity=measure.activity.compute(),
            ranking=rank(*ordered, measure.top.compute()),
            baselines=baselines,
            excess=most_in_excess(measure.excess.compute()),
            shares=length_shares(measure.sae.dictionary, self.parts),
        )


def _count(rule: Rule, class_names: Sequence[str], ignore_label: int | None) -> Concepts:
    metric = Concepts(class_names, rule.thresholds, ranked=rule.ranked, ignore_label=ignore_label)
    return metric.to(rule.thresholds.device)


def check_concepts(test: Callable[..., ConceptTest] | None) -> None:
    """Checks the settings of the concept test before the training that it follows."""
    settings = getattr(test, "keywords", {})
    _check(list(settings.get("quantiles", (0,))), settings.get("union", 1))


def _check(quantiles: list[float | int], union: int) -> None:
    numbers = all(type(share) in (int, float) for share in quantiles)
    if not numbers or quantiles[:1] != [0] or quantiles != sorted(quantiles) or quantiles[-1] >= 1:
        raise UserError(
            f"model.concepts.quantiles ascend from 0, the floor, and stay below 1, got {quantiles}"
        )
    if not 1 <= union <= CANDIDATES:
        raise UserError(f"model.concepts.union lies in 1..{CANDIDATES} latents, got {union}")


def projection(rows: Float[Tensor, "latents d_in"], mean: Float[Tensor, " d_in"]) -> Encode:
    """Encodes tokens by their dot products with these rows, after the mean is subtracted."""
    return lambda tokens, part: (tokens.float() - mean) @ rows[part].T


@torch.no_grad()
def activation_histogram(
    encode: Encode,
    floors: Float[Tensor, " latents"],
    ranked: int | None,
    sample: Callable[[], Iterable[Tensor]],
) -> ActivationHistogram:
    """Activations of the directions on the sample, which is the same on every rank."""
    metric = Activations(floors, ranked=ranked).to(floors.device)
    metric.sync_on_compute = False
    for tokens in sample():
        metric.update(pre_of(encode, tokens.to(floors.device)[None, :, None]))
    return metric.compute()


def match_density(
    quantiles: Sequence[float | int], histogram: ActivationHistogram, like: ActivationHistogram
) -> Float[Tensor, "latents quantiles"]:
    """Quantiles of `histogram` at which its latents are at most as dense as those of `like`."""
    ratio = like.density / histogram.density.clamp(min=torch.finfo(torch.float64).tiny)
    above = 1 - torch.tensor(quantiles, dtype=torch.float64, device=ratio.device)
    return (1 - ratio.clamp(max=1)[:, None] * above).float()


@torch.no_grad()
def components(
    sample: Iterable[Float[Tensor, "_ d_in"]], mean: Float[Tensor, " d_in"]
) -> Float[Tensor, "components d_in"]:
    """The principal components of the sample, the largest first."""
    products = mean.new_zeros(len(mean), len(mean))
    for tokens in sample:
        centred = tokens.to(mean.device).float() - mean
        products += centred.T @ centred
    return torch.linalg.eigh(products).eigenvectors.T.flip(0)[:COMPONENTS].contiguous()


def runners_up(train: Counts) -> Choice:
    """The second-best latent of each class; NONE if the dictionary has only one."""
    if train.intersections.shape[2] > 1:
        return choose(train, place=1)
    none = torch.full_like(train.pixels, NONE)
    return Choice(none, torch.zeros_like(none))


def print_findings(by_dictionary: Mapping[str, Findings]) -> None:
    """Prints tables class → latent → IoU, with the means and the classes left out of them."""
    console = Console(soft_wrap=True)
    for name, findings in by_dictionary.items():
        console.print(_table(findings, name))
        for split in ("train", "test"):
            if absent := getattr(findings.best, f"absent_{split}"):
                console.print(f"no pixel in {split}, so in no mean: {', '.join(absent)}")


def _table(findings: Findings, title: str) -> Table:
    baselines = [name for name in ("random", "channels") if name in findings.baselines]
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("class")
    for name in ("latent", "IoU", "train", *baselines):
        table.add_column(name, justify="right")
    reports = [findings.best, *(findings.baselines[name] for name in baselines)]
    for i, row in enumerate(findings.best.rows):
        latent = "–" if row.latent == NONE else str(row.latent)
        values = [row.test.iou, row.train.iou, *(each.test.iou[i] for each in reports[1:])]
        table.add_row(row.name, latent, *map(_format, values))
    best = findings.best
    means = [best.mean_test, best.mean_train, *(each.mean_test for each in reports[1:])]
    table.add_row("mean", "", *(_format(mean.iou) for mean in means), style="bold")
    return table


def _format(iou: Tensor | float) -> str:
    value = float(iou)
    return "–" if math.isnan(value) else f"{value:.3f}"
