"""`task=causality`: whether a network uses a class's latents: they are changed while it draws.

What comes out is labelled, beside directions of the same length at the same places, other latents
of like frequency, and the class's mean difference. After GAN Dissection (Bau et al. 2019).
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.denoiser import Given
from diffdict.data.base import Pictures
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.pairs import window_level
from diffdict.diffusion.samplers import length, own_noise
from diffdict.errors import UserError, at_least
from diffdict.metrics.effects import FEWEST, EffectCounts, Effects, large_enough, rank_share
from diffdict.results.class_latents import ClassLatents
from diffdict.results.tables import Row
from diffdict.seeds import mix
from diffdict.tasks.changes import Change, combined
from diffdict.tasks.controls import (
    Edit,
    Redirected,
    Strengthened,
    class_differences,
    equal_factors,
    like_density,
    random_direction,
)
from diffdict.tasks.labeller import Labeller
from diffdict.tasks.studied_dictionary import open_studied
from diffdict.tasks.substitution import check_encoding

OWN, OTHERS, EQUAL, DIFFERENCE = "latents", "others", "others_equal", "difference"
NEAR = 16  # a region's margin is the side over this


class Causality(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        net: Backbone,
        sampler: partial,
        objective: Objective,
        dictionary: str,
        labeller: Callable[[Backbone], Labeller] | None,
        number: int,
        *,
        pictures: Callable[..., Pictures] | None = None,
        name: str | None = None,
        block: Block | None = None,
        tables: str | None = None,
        concept: str | list | None = None,
        most: int | None = None,
        amount: int | float | list = -2.0,
        window: list | None = None,
        controls: int = 4,
        labelled_pictures: int = 20,
        seed: int = 0,
    ) -> None:
        """`concept`: None is every class of the dictionary's test that has latents of its own.

        `controls`: random directions. `pictures`: labelled ones, of which the first so many of the
        training split say each class's mean difference; None leaves that control out.
        """
        super().__init__()
        at_least(0, "model", controls=controls)
        at_least(1, "model", labelled_pictures=labelled_pictures)
        self.studied = open_studied(dictionary, net, name, block)
        check_encoding(self.studied, "task=causality")
        self.net, self.sae = self.studied.net.requires_grad_(False).eval(), self.studied.sae
        self.sampler, self.objective, self.seed = sampler, objective, seed
        self.labeller = check_labeller(labeller, self.net, "task=causality")
        self.class_names = list(self.labeller.segmenter.class_names)
        known = ClassLatents(dictionary, name, tables)
        self.wanted = chosen_classes(known, concept, most, self.class_names)
        self.changes = combined(self.wanted, amount, window)
        self.levels = [window_level(c.window, sampler, self.net.process) for c in self.changes]
        density = self.sae.frequency.cpu()
        density = density if bool(density.any()) else known.density(self.sae.latents)
        self.others = {c: like_density(own, density) for c, own in self.wanted}
        self.controls, self.number = controls, number
        self.pictures, self.labelled_pictures = pictures, labelled_pictures
        self.differences: dict[int, Tensor] = {}
        kinds = [OWN, *(f"direction_{i}" for i in range(controls)), OTHERS, EQUAL]
        self.kinds = kinds + ([] if pictures is None else [DIFFERENCE])
        margin = net.image_size // NEAR
        self.measured = nn.ModuleList(
            nn.ModuleDict({kind: Effects(len(self.class_names), margin) for kind in self.kinds})
            for _ in self.changes
        )
        # of others_equal: the sum of its factors, and over how many pictures
        self.strength = torch.zeros(len(self.changes), 2, dtype=torch.float64)
        self.found: list[dict[str, EffectCounts]] = []
        if number < 2:
            print("One seed has no standard error: data.number=48")
        if not controls:
            print("controls=0: no random directions, so no p")

    def on_test_start(self) -> None:
        """Begins anew; the classes' mean differences, from labelled training pictures."""
        self.strength.zero_()
        for metrics in self.measured:
            for metric in metrics.values():
                metric.reset()
        if self.pictures is not None:
            labelled = self.pictures(split="train")
            check_same_classes(labelled, self.class_names)
            self.differences = class_differences(
                self.studied, labelled, self.labelled_pictures, self.seed + 1
            )

    def test_step(self, batch: Int[Tensor, " batch"], batch_idx: int) -> None:
        """Some seeds: the plain chain, its labels, and every change of every class in them."""
        if not len(batch):
            return
        indices = batch.tolist()
        steps = length(self.sampler, self.net.process)
        start = self.net.process.start(self._noise(indices)(steps).to(batch.device))
        drawn = self._chain(indices, start, None, record=set(self.levels))
        off = drawn.x.float().clamp(-1, 1)
        labels = self.labeller(off, indices).masks
        states = drawn.states
        for place, (change, level) in enumerate(zip(self.changes, self.levels, strict=True)):
            region = labels == self.class_names.index(change.concept)
            has = large_enough(region).nonzero()[:, 0].tolist()
            if not has:
                continue
            own = [indices[i] for i in has]
            before = Before(own, states[level][has], off[has], labels[has], region[has], level)
            self._measure(place, change, before)

    def _measure(self, place: int, change: Change, before: "Before") -> None:
        """One change and its controls on the pictures that show its class."""
        metrics, squares = self.measured[place], {}
        edit = self._edit(change, change.latents)
        other = self._edit(change, self.others[change.concept])
        label = self.class_names.index(change.concept)
        for kind in self.kinds:
            if kind == OWN:
                made: Edit = edit
            elif kind == OTHERS:
                made = other
            elif kind == EQUAL:
                factors = equal_factors(squares[OWN], squares[OTHERS])
                self.strength[place] += torch.tensor([float(factors.sum()), len(factors)])
                made = Strengthened(other, factors)
            elif kind == DIFFERENCE:
                sign = 1 if change.amount > 1 else -1
                rows = {t: sign * means[label] for t, means in self.differences.items()}
                made = Redirected(edit, rows)
            else:
                draw = mix(self.seed, label, int(kind.rpartition("_")[2]))
                made = Redirected(
                    edit, random_direction(self.net.shapes[self.studied.block][0], draw)
                )
            on = self._chain(before.indices, before.state, made, start=before.level).x
            on = on.float().clamp(-1, 1)
            squares[kind] = (on - before.off).square().flatten(1).mean(1)
            masks = self.labeller(on, before.indices).masks
            metrics[kind].update(before.labels, masks, before.region, squares[kind])

    def _edit(self, change: Change, latents: Sequence[int]) -> Edit:
        edits = self.studied.edits(latents, "scale", change.amount, window=change.window)
        return edits[self.studied.block]

    def _noise(self, indices: list[int]) -> Callable[[int], Tensor]:
        return own_noise(self.seed, indices, (3, *[self.net.image_size] * 2))

    def _chain(self, indices: list[int], x: Tensor, edit: Edit | None, **where: object) -> object:
        """These samples from x on, with the block's map edited."""
        classes = self.net.condition.classes
        label = None if classes is None else torch.tensor(indices, device=x.device) % classes
        edits = None if edit is None else self.studied.edit(edit)
        net = partial(self.net, given=Given(label=label), edits=edits)
        settings = {"objective": self.objective, "noise": self._noise(indices)}
        return self.sampler(net, x, self.net.process, **settings, **where)

    def on_test_epoch_end(self) -> None:
        """Means over the classes that have figures, of the first amount and window."""
        self.found = [{k: m.compute() for k, m in each.items()} for each in self.measured]
        if self.trainer.world_size > 1:
            self.strength = self.all_gather(self.strength).sum(0).cpu()
        first = (self.changes[0].amount, self.changes[0].window)
        rows = [row for row in self.rows() if (row["amount"], row["span"]) == first]
        for kind in dict.fromkeys(row["edit"] for row in rows):
            own = [row for row in rows if row["edit"] == kind and row["kept"] is not None]
            for key in ("kept", "outside", "rms"):
                values = torch.tensor([row[key] for row in own], dtype=torch.float64)
                name = key if kind == OWN else f"{key}_{kind}"
                self.log(f"test/{name}", values.mean() if own else torch.nan)

    def rows(self) -> list[dict]:
        """A row a change and control; directions are one row, their mean."""
        rows = []
        for place, (change, found) in enumerate(zip(self.changes, self.found, strict=True)):
            label = self.class_names.index(change.concept)
            draws = [found[k] for k in self.kinds if k.startswith("direction")]
            effects = [1 - each.kept(label) for each in draws]
            for kind in (OWN, "direction", OTHERS, EQUAL, DIFFERENCE):
                several = draws if kind == "direction" else [found[k] for k in [kind] if k in found]
                if not several:
                    continue
                row = {"class": change.concept, "edit": kind, "amount": change.amount}
                row |= {"span": change.window, **figures_of(several, label, self.class_names)}
                if kind == OWN and row["kept"] is not None:
                    row["p"] = rank_share(1 - row["kept"], effects)
                factors, pictures = self.strength[place].tolist()
                if kind == EQUAL and pictures:
                    mean = factors / pictures
                    row["amount_equal"] = 1 + (change.amount - 1) * mean
                latents = self.others[change.concept] if kind in (OTHERS, EQUAL) else change.latents
                row["latents"] = " ".join(map(str, latents)) if "dir" not in kind else None
                rows.append(row)
        return rows

    def tables(self) -> dict[str, list[Row]]:
        """Every class's effect beside its controls, the strongest first."""
        rows = self.rows()
        own = {place_of(row): row["kept"] for row in rows if row["edit"] == OWN}

        def strength(row: dict) -> float:
            kept = own[place_of(row)]
            return 2.0 if kept is None else kept

        shown = [{**row, "window": _spoken(row["span"])} for row in sorted(rows, key=strength)]
        return {"effects": [{k: v for k, v in row.items() if k != "span"} for row in shown]}


def place_of(row: dict) -> tuple:
    """Which change a row is of."""
    return row["class"], row["amount"], str(row["span"])


class Before:
    """Pictures that show a class, before a change: their state, their labels, where it is."""

    def __init__(
        self,
        indices: list[int],
        state: Float[Tensor, "n 3 h w"],
        off: Float[Tensor, "n 3 h w"],
        labels: Int[Tensor, "n h w"],
        region: Tensor,
        level: int,
    ) -> None:
        self.indices, self.state, self.off = indices, state, off
        self.labels, self.region, self.level = labels, region, level


def figures_of(
    several: Sequence[EffectCounts], label: int, class_names: Sequence[str]
) -> dict[str, object]:
    """The mean figures of one edit, or of several draws; None with too few pictures."""
    pictures = several[0].pictures
    if pictures < FEWEST:
        dashes = dict.fromkeys(("kept", "error", "area", "outside", "rms"))
        return {"pictures": pictures, **dashes, "became": None}

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    became = several[0].became(label)
    return {
        "pictures": pictures,
        "kept": mean([each.kept(label) for each in several]),
        "error": mean([each.error(label) for each in several]),
        "area": mean([each.area(label) for each in several]),
        "outside": mean([each.outside for each in several]),
        "rms": mean([each.rms for each in several]),
        "became": ", ".join(f"{class_names[other]} {share:.2f}" for other, share in became),
    }


def chosen_classes(
    known: ClassLatents, concept: str | list | None, most: int | None, class_names: Sequence[str]
) -> list[tuple[str, list[int]]]:
    """The classes to be measured, with their latents."""
    known.require()
    asked = [concept] if isinstance(concept, str) else concept
    if asked is None:
        asked = [name for name, row in known.rows.items() if row["excess"]]
    strangers = [name for name in asked if name in known.rows and name not in class_names]
    if strangers or not asked:
        raise UserError(
            f"The labeller says {', '.join(class_names)}, the dictionary was tested on "
            f"{', '.join(known.rows)}: learn a labeller of the same classes"
        )
    return [(str(name), known.of_class(str(name), most)) for name in asked]


def check_labeller(
    labeller: Callable[[Backbone], Labeller] | None, net: Backbone, task: str
) -> Labeller:
    """The labeller at work, where it looks at pictures of the network's size."""
    if labeller is None:
        raise UserError(
            f"{task} labels what was drawn: labeller=outputs/…/last.ckpt, a run of task=pixel_mlp"
        )
    opened = labeller(net)
    if opened.image_size != net.image_size:
        raise UserError(
            f"The labeller learned from pictures of {opened.image_size}×{opened.image_size}, "
            f"{net.name} draws {net.image_size}×{net.image_size}: learn one with "
            f"dataset.image_size={net.image_size}"
        )
    return opened


def check_same_classes(pictures: Pictures, class_names: Sequence[str]) -> None:
    """Refuses pictures that say other classes than the labeller."""
    if not pictures.labelled or list(pictures.class_names) != list(class_names):
        raise UserError(
            f"The mean differences come from pictures with the labeller's classes, "
            f"{pictures.name} has others: dataset=…, or model.pictures=null leaves them out"
        )


def _spoken(window: Sequence | None) -> str | None:
    return None if window is None else f"{window[0]}-{window[1]}"
