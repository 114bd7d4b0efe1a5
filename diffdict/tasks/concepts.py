"""What dictionaries know of labelled classes: chosen on training pictures, tested on others.

Whole pictures are walked three times: training pictures to count every latent × class, the same
again for unions of the best, then the test's. All that is counted is a sum, or the largest few, so
any number of ranks finds what one finds; nothing is held for every pixel and latent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffdict.errors import UserError
from diffdict.features.labelled import LabelledPicture
from diffdict.metrics.activations import Activations, Histogram, find_floors
from diffdict.metrics.concepts import Concepts, Counts
from diffdict.metrics.findings import Findings, Together
from diffdict.metrics.native import Encode, pre_of
from diffdict.metrics.ranking import IGNORED, Top, rank, token_labels
from diffdict.metrics.selection import (
    NONE,
    Choice,
    Report,
    choose,
    match,
    random_directions,
    report,
)
from diffdict.metrics.unions import Unions, candidates
from diffdict.sae.base import Sae

CHOOSE, UNITE, TEST = range(3)  # the walks
COMPONENTS = 256  # principal ones, at most
CANDIDATES = 12  # latents that a class's union is grown from


class Rule(NamedTuple):
    """Directions, and above what they count as active."""

    encode: Encode  # raw tokens to pre-activations, affine
    thresholds: Float[Tensor, "latents thresholds"]
    ranked: int | None


class Watch:
    """Where directions are active, against masks: in training pictures and in the test's."""

    def __init__(self, rule: Rule, class_names: Sequence[str], ignore_label: int | None) -> None:
        self.rule = rule
        self.areas = {walk: _count(rule, class_names, ignore_label) for walk in (CHOOSE, TEST)}

    def counts(self) -> tuple[Counts, Counts]:
        """Of all ranks: training and test."""
        return self.areas[CHOOSE].compute(), self.areas[TEST].compute()


class Closer:
    """What is asked of a dictionary and of no baseline: tokens in order, unions, strength."""

    def __init__(self, rule: Rule, class_names: Sequence[str], ignore_label: int | None) -> None:
        floors, device = rule.thresholds[:, 0], rule.thresholds.device
        self.rule, self.class_names, self.ignore_label = rule, class_names, ignore_label
        self.tokens = {walk: _count(rule, class_names, IGNORED) for walk in (CHOOSE, TEST)}
        self.top = Top(class_names, floors, ranked=rule.ranked).to(device)
        self.activity = Activations(floors, ranked=rule.ranked).to(device)
        self.unions: dict[int, Unions] = {}

    def begin_unions(self, train: Counts) -> None:
        """The same candidates on training pictures, to grow from, and on the test's."""
        thresholds = self.rule.thresholds
        chosen = candidates(train, thresholds, CANDIDATES)
        options = {"ranked": self.rule.ranked, "ignore_label": self.ignore_label}
        for walk in (UNITE, TEST):
            metric = Unions(self.class_names, chosen, len(thresholds), **options)
            self.unions[walk] = metric.to(thresholds.device)

    def unite(self, most: int) -> list[Together]:
        """The unions, class by class."""
        before, after = (self.unions[walk].compute() for walk in (UNITE, TEST))
        grown = before.grow(most)
        slots = [union.slots for union in grown]
        ious = zip(before.iou(slots).tolist(), after.iou(slots).tolist(), strict=True)
        return [Together(u.latents, *pair) for u, pair in zip(grown, ious, strict=True)]


class ConceptTest:
    """Dictionaries, by name, and what they are compared with, over whole labelled pictures."""

    def __init__(
        self,
        saes: Mapping[str, Sae],
        sample: Callable[[], Iterable[Float[Tensor, "_ d_in"]]],
        mean: Float[Tensor, " d_in"],
        class_names: Sequence[str],
        ignore_label: int | None,
        *,
        quantiles: Sequence[float | int] = (0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98),
        union: int = 4,
        baselines: bool = True,
        seed: int = 0,
    ) -> None:
        """`sample` are tokens, the same at every call; `mean` is theirs, which baselines centre on.

        `quantiles` of a latent's own activations are its thresholds; the first is 0, its floor.
        """
        quantiles = [float(share) for share in quantiles]
        _check(quantiles, union)
        self.class_names, self.ignore_label = tuple(class_names), ignore_label
        self.union, self.walk = union, CHOOSE
        self.watches: dict[str, Watch] = {}
        self.closers: dict[str, Closer] = {}
        for name, sae in saes.items():
            floors = find_floors(
                sae.activate, sae.latents, ranked=sae.ranked, device=sae.W_enc.device
            )
            own = seen(sae.pre, floors, sae.ranked, sample)
            rule = self._watch(name, sae.pre, own, sae.ranked, quantiles)
            self.closers[name] = Closer(rule, self.class_names, ignore_label)
            if baselines:
                encode = along(random_directions(sae.latents, len(mean), seed, mean.device), mean)
                found = seen(encode, torch.zeros_like(own.floors), sae.ranked, sample)
                shares = quantiles if sae.ranked else thinning(quantiles, found, own)
                self._watch(f"{name}/random", encode, found, sae.ranked, shares)
        channels = torch.eye(len(mean), device=mean.device)
        for name in ("channels", "pca") if baselines else ():
            rows = channels if name == "channels" else components(sample(), mean)
            encode = along(torch.cat([rows, -rows]), mean)
            found = seen(encode, mean.new_zeros(2 * len(rows)), None, sample)
            self._watch(name, encode, found, None, quantiles)

    def _watch(
        self,
        name: str,
        encode: Encode,
        seen: Histogram,
        ranked: int | None,
        shares: Sequence[float] | Float[Tensor, "latents thresholds"],
    ) -> Rule:
        rule = Rule(encode, seen.quantiles(shares), ranked)
        self.watches[name] = Watch(rule, self.class_names, self.ignore_label)
        return rule

    @torch.no_grad()
    def see(self, walk: int, picture: LabelledPicture) -> None:
        """One picture of a walk; walks follow one another."""
        self._go_on(walk)
        ((grid, tokens),) = picture.maps.groups.items()
        maps, mask = tokens.unflatten(1, grid), picture.mask[None]
        other = None if picture.other is None else picture.other[None]
        with torch.autocast(tokens.device.type, enabled=False):
            if walk != UNITE:
                for name, watch in self.watches.items():
                    null = other if name in self.closers else None
                    watch.areas[walk].update(pre_of(watch.rule.encode, maps), mask, null)
                labels = token_labels(mask, grid, self.class_names, self.ignore_label)
            for closer in self.closers.values():
                pre = pre_of(closer.rule.encode, maps)
                if walk != CHOOSE:
                    closer.unions[walk].update(pre, mask)
                if walk != UNITE:
                    closer.tokens[walk].update(pre, labels)
                if walk == TEST:
                    closer.top.update(pre, labels)
                    closer.activity.update(pre)

    def _go_on(self, walk: int) -> None:
        """Ranks go from walk to walk in one order, also those that have no picture in some."""
        if self.walk == CHOOSE and walk > CHOOSE:
            for name, closer in self.closers.items():
                closer.begin_unions(self.watches[name].areas[CHOOSE].compute())
        self.walk = walk

    def findings(self) -> dict[str, Findings]:
        """What all ranks have found, by dictionary."""
        self._go_on(TEST)
        shared = {name: self._chosen(name) for name in ("channels", "pca") if name in self.watches}
        return {name: self._findings(name, shared) for name in self.closers}

    def _chosen(self, name: str) -> Report:
        train, test = self.watches[name].counts()
        return report(choose(train), train, test)

    def _findings(self, name: str, baselines: dict[str, Report]) -> Findings:
        closer, (train, test) = self.closers[name], self.watches[name].counts()
        if f"{name}/random" in self.watches:
            baselines = {"random": self._chosen(f"{name}/random"), **baselines}
        if train.null is not None and test.null is not None:
            permuted = report(choose(train.null), train.null, test.null)
            baselines = {"permuted": permuted, **baselines}
        ordered = (closer.tokens[walk].compute() for walk in (CHOOSE, TEST))
        return Findings(
            class_names=self.class_names,
            thresholds=closer.rule.thresholds,
            ranked=closer.rule.ranked,
            train=train,
            test=test,
            best=report(choose(train), train, test),
            zero=report(choose(train, threshold=0), train, test),
            matched=report(match(train), train, test),
            second=runners_up(train),
            unions=closer.unite(self.union),
            activity=closer.activity.compute(),
            ranking=rank(*ordered, closer.top.compute()),
            baselines=baselines,
        )


def _count(rule: Rule, class_names: Sequence[str], ignore_label: int | None) -> Concepts:
    metric = Concepts(class_names, rule.thresholds, ranked=rule.ranked, ignore_label=ignore_label)
    return metric.to(rule.thresholds.device)


def check_concepts(test: Callable[..., ConceptTest] | None) -> None:
    """The settings of a test that is to come, before anything is learned for it."""
    said = getattr(test, "keywords", {})
    _check(list(said.get("quantiles", (0,))), said.get("union", 1))


def _check(quantiles: list[float | int], union: int) -> None:
    """The settings."""
    numbers = all(type(share) in (int, float) for share in quantiles)
    if not numbers or quantiles[:1] != [0] or quantiles != sorted(quantiles) or quantiles[-1] >= 1:
        raise UserError(
            f"model.concepts.quantiles ascend from 0, the floor, and stay below 1, got {quantiles}"
        )
    if not 1 <= union <= CANDIDATES:
        raise UserError(f"model.concepts.union lies in 1..{CANDIDATES} latents, got {union}")


def along(rows: Float[Tensor, "latents d_in"], mean: Float[Tensor, " d_in"]) -> Encode:
    """How far tokens go in these directions from their mean."""
    return lambda tokens, part: (tokens.float() - mean) @ rows[part].T


@torch.no_grad()
def seen(
    encode: Encode,
    floors: Float[Tensor, " latents"],
    ranked: int | None,
    sample: Callable[[], Iterable[Tensor]],
) -> Histogram:
    """How strongly directions are active on the sample, which is the same on every rank."""
    metric = Activations(floors, ranked=ranked).to(floors.device)
    metric.sync_on_compute = False
    for tokens in sample():
        metric.update(pre_of(encode, tokens.to(floors.device)[None, :, None]))
    return metric.compute()


def thinning(
    quantiles: Sequence[float | int], found: Histogram, like: Histogram
) -> Float[Tensor, "latents quantiles"]:
    """Quantiles of `found` among the activations that leave it no denser than `like`."""
    kept = like.density / found.density.clamp(min=torch.finfo(torch.float64).tiny)
    above = 1 - torch.tensor(quantiles, dtype=torch.float64, device=kept.device)
    return (1 - kept.clamp(max=1)[:, None] * above).float()


@torch.no_grad()
def components(
    sample: Iterable[Float[Tensor, "_ d_in"]], mean: Float[Tensor, " d_in"]
) -> Float[Tensor, "components d_in"]:
    """The principal directions of the sample, the largest first."""
    products = mean.new_zeros(len(mean), len(mean))
    for tokens in sample:
        centred = tokens.to(mean.device).float() - mean
        products += centred.T @ centred
    return torch.linalg.eigh(products).eigenvectors.T.flip(0)[:COMPONENTS].contiguous()


def runners_up(train: Counts) -> Choice:
    """The second latents of each class; of a single latent none."""
    if train.intersections.shape[2] > 1:
        return choose(train, place=1)
    none = torch.full_like(train.pixels, NONE)
    return Choice(none, torch.zeros_like(none))


def show(found: Mapping[str, Findings]) -> None:
    """Tables class → latent → IoU, with the means and what is left out of them."""
    console = Console(soft_wrap=True)
    for name, findings in found.items():
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
    kept = [findings.best, *(findings.baselines[name] for name in baselines)]
    for i, row in enumerate(findings.best.rows):
        latent = "–" if row.latent == NONE else str(row.latent)
        values = [row.test.iou, row.train.iou, *(each.test.iou[i] for each in kept[1:])]
        table.add_row(row.name, latent, *map(_spoken, values))
    means = [kept[0].mean_test, kept[0].mean_train, *(each.mean_test for each in kept[1:])]
    table.add_row("mean", "", *(_spoken(mean.iou) for mean in means), style="bold")
    return table


def _spoken(iou: Tensor | float) -> str:
    value = float(iou)
    return "–" if math.isnan(value) else f"{value:.3f}"
