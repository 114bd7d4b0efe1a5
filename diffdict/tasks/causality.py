"""`task=causality`: whether a network uses a class's latents: they are changed while it draws.

What comes out is labelled, beside directions of the same length at the same places, other latents
of like frequency, and the class's mean difference. After GAN Dissection (Bau et al. 2019).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from jaxtyping import Int
from torch import Tensor, nn

from diffdict.backbones.base import Backbone, Block
from diffdict.data.base import Pictures
from diffdict.diffusion.chains.inversion import picture_error, psnr
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.schedules import Schedule
from diffdict.errors import UserError, at_least
from diffdict.features.codes.studied_dictionary import open_studied
from diffdict.metrics.losses.damage import Damage, DamageFigures
from diffdict.reports.subjects import SteeredDictionary, SteeredStrip
from diffdict.results.inputs.class_latents import ClassLatents
from diffdict.results.tables import Row
from diffdict.seeds import mix
from diffdict.tasks.interventions.chains import EditedChains, check_picture_size
from diffdict.tasks.interventions.changes import Change, combined
from diffdict.tasks.interventions.controls import (
    Edit,
    Redirected,
    Strengthened,
    class_differences,
    equal_factors,
    like_density,
    random_direction,
)
from diffdict.tasks.interventions.effect_rows import (
    AGAIN,
    DIFFERENCE,
    DIRECTION,
    EQUAL,
    OTHERS,
    OWN,
    agreement_of,
    change_rows,
    rankings,
    strongest_first,
)
from diffdict.tasks.interventions.judge import Judge, JudgedPictures, Opener, open_judges
from diffdict.tasks.interventions.strips import StripGrid, draw_strip, equal_windows
from diffdict.tasks.labeller import PictureLabeller
from diffdict.tasks.substitution import check_encoding


class Causality(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        net: Backbone,
        sampler: partial,
        objective: Objective,
        dictionary: str,
        labeller: Opener | Sequence[Opener] | None,
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
        damage: Sequence[int] | None = None,
        level: int | None = None,
        label: int | None = None,
        picture_size: int | None = None,
        seed: int = 0,
    ) -> None:
        """`concept`: None is every class of the dictionary's test that has latents of its own.

        `labeller`: one, or two, of which the first says where a class is in its own table.
        `controls`: random directions. `pictures`: labelled ones, of which the first so many of the
        training split say each class's mean difference; None leaves that control out.
        `damage`: timesteps at which the network's loss on what was drawn is measured.
        `level`: pictures that there are are inverted up to this timestep, and effects are counted
        in their true masks where they have some; None: samples from noise.
        """
        super().__init__()
        at_least(0, "model", controls=controls)
        at_least(1, "model", labelled_pictures=labelled_pictures)
        self.studied = open_studied(dictionary, net, name, block)
        check_encoding(self.studied, "task=causality")
        check_picture_size(picture_size, net.image_size, net.name)
        self.net, self.sae = self.studied.net.requires_grad_(False).eval(), self.studied.sae
        self.chains = EditedChains(self.studied, sampler, objective, seed, level=level, label=label)
        self.seed, self.real = seed, level is not None
        self.palette: Sequence[Sequence[int]] = ()  # of the labelled pictures
        labellers = open_judges(labeller, self.net, "task=causality")
        self.class_names = list(labellers[0].segmenter.class_names)
        class_latents = ClassLatents(dictionary, name, tables)
        self.wanted = chosen_classes(class_latents, concept, most, self.class_names)
        self.changes = combined(self.wanted, amount, window)
        self.levels = [self.chains.level(change.window) for change in self.changes]
        density = self.sae.frequency.cpu()
        self.density = density if bool(density.any()) else class_latents.density(self.sae.latents)
        self.others = {c: like_density(latents, self.density) for c, latents in self.wanted}
        self.controls, self.number = controls, number
        self.pictures, self.labelled_pictures = pictures, labelled_pictures
        self.differences: dict[int, Tensor] = {}
        self.noised = check_damage(damage, self.net)
        self._begin_counting(labellers)

    def _begin_counting(self, labellers: Sequence[PictureLabeller]) -> None:
        """All that a test sums: by judge and change what each control has done, and by change how
        strong others had to be and what the network loses."""
        self.kinds = [OWN, *(f"{DIRECTION}_{i}" for i in range(self.controls)), OTHERS, EQUAL]
        self.kinds += ([] if self.pictures is None else [DIFFERENCE]) + [AGAIN] * self.real
        self.judges = nn.ModuleList(Judge(one, len(self.changes), self.kinds) for one in labellers)
        self.damage = nn.ModuleList(
            nn.ModuleDict({kind: Damage(len(self.noised)) for kind in self.kinds if self.noised})
            for _ in self.changes
        )
        # of others_equal: the sum of its factors, and over how many pictures
        self.strength = torch.zeros(len(self.changes), 2, dtype=torch.float64)
        # of pictures drawn again: the sum of their PSNR, and how many they are
        self.decibels = torch.zeros(2, dtype=torch.float64)
        self.hurt: list[dict[str, DamageFigures]] = []
        self.shown: dict[str, list[int]] = {}  # by class: the first pictures that show it
        if self.number < 2:
            print("One seed has no standard error: data.number=48")
        if not self.controls:
            print("controls=0: no random directions, so no p")

    def on_test_start(self) -> None:
        """Begins anew; the classes' mean differences, from labelled training pictures."""
        self.strength.zero_()
        self.decibels.zero_()
        self.shown = {name: [] for name, _ in self.wanted}
        for judge in self.judges:
            judge.reset()
        for metrics in self.damage:
            for metric in metrics.values():
                metric.reset()
        if self.pictures is not None:
            labelled = self.pictures(split="train")
            check_same_classes(labelled, self.class_names)
            check_picture_size(labelled.image_size, self.net.image_size, self.net.name)
            self.palette = labelled.palette
            self.differences = class_differences(
                self.studied, labelled, self.labelled_pictures, self.seed + 1
            )

    def test_step(self, batch: Int[Tensor, " batch"] | Mapping, batch_idx: int) -> None:
        """Some pictures: the plain chain, its labels, and every change of every class in them."""
        given = batch if isinstance(batch, Mapping) else {"index": batch}
        indices = given["index"].tolist()
        if not indices:
            return
        images, truth = (
            None if given.get(key) is None else given[key][: len(indices)]
            for key in ("image", "mask")
        )
        start = self.chains.begin(indices, images)
        chain = self.chains.draw(indices, start, record=self.levels)
        if images is not None:
            decibels = list(map(psnr, picture_error(chain.x, images).rmse.tolist()))
            self.decibels += torch.tensor([sum(decibels), len(decibels)])
        labels = [judge.labels(chain.x, indices) for judge in self.judges]
        for place, (change, level) in enumerate(zip(self.changes, self.levels, strict=True)):
            label = self.class_names.index(change.concept)
            judged = [
                JudgedPictures(
                    indices, chain.x, masks, (masks if truth is None else truth) == label
                )
                for masks in labels
            ]
            shows = sorted({i for one in judged for i in one.shows})
            self.shown[change.concept] += [
                indices[i] for i in judged[0].shows if indices[i] not in self.shown[change.concept]
            ]
            if shows:
                by_judge = [one.some(shows) for one in judged]
                self._measure(place, change, by_judge, chain.states[level][shows])

    def _measure(
        self, place: int, change: Change, by_judge: list[JudgedPictures], state: Tensor
    ) -> None:
        """One change and its controls on the pictures that show its class."""
        squares: dict[str, Tensor] = {}
        indices, off = by_judge[0].indices, by_judge[0].off
        before = self.chains.losses(indices, off, self.noised) if self.noised else None
        for kind in self.kinds:
            on = off
            if kind != AGAIN:
                edits = self.studied.edit(self._edit(place, change, kind, squares))
                on = self.chains.draw(indices, state, edits, start=self.levels[place]).x
            squares[kind] = (on - off).square().flatten(1).mean(1)
            for judge, pictures in zip(self.judges, by_judge, strict=True):
                judge.count(place, kind, pictures, on)
            if before is not None:
                after = self.chains.losses(indices, on, self.noised)
                self.damage[place][kind].update(before, after)

    def _edit(self, place: int, change: Change, kind: str, squares: Mapping[str, Tensor]) -> Edit:
        """The latents' own edit, or a control's; `squares`: what earlier ones have changed."""
        label = self.class_names.index(change.concept)
        if kind in (OTHERS, EQUAL):
            other = self._scaled(change, self.others[change.concept])
            if kind == OTHERS:
                return other
            factors = equal_factors(squares[OWN], squares[OTHERS])
            self.strength[place] += torch.tensor([float(factors.sum()), len(factors)])
            return Strengthened(other, factors)
        edit = self._scaled(change, change.latents)
        if kind == OWN:
            return edit
        if kind == DIFFERENCE:
            sign = 1 if change.amount > 1 else -1
            return Redirected(
                edit, {t: sign * by_class[label] for t, by_class in self.differences.items()}
            )
        draw = mix(self.seed, label, int(kind.rpartition("_")[2]))
        channels = self.net.shapes[self.studied.block][0]
        return Redirected(edit, random_direction(channels, draw))

    def _scaled(self, change: Change, latents: Sequence[int]) -> Edit:
        edits = self.studied.edits(latents, "scale", change.amount, window=change.window)
        return edits[self.studied.block]

    def on_test_epoch_end(self) -> None:
        """Means over the classes that have figures, of the first amount and window."""
        for judge in self.judges:
            judge.compute()
        self.hurt = [{k: m.compute() for k, m in metrics.items()} for metrics in self.damage]
        if self.trainer.world_size > 1:
            self.strength = self.all_gather(self.strength).sum(0).cpu()
            self.decibels = self.all_gather(self.decibels).sum(0).cpu()
        first = (self.changes[0].amount, self.changes[0].window)
        rows = [row for row in self._rows(0) if (row["amount"], row["span"]) == first]
        for kind in dict.fromkeys(row["edit"] for row in rows):
            kind_rows = [row for row in rows if row["edit"] == kind and row["kept"] is not None]
            for key in ("kept", "outside", "rms", *(["damage"] if self.noised else [])):
                values = torch.tensor([row[key] for row in kind_rows], dtype=torch.float64)
                name = key if kind == OWN else f"{key}_{kind}"
                self.log(f"test/{name}", values.mean() if kind_rows else torch.nan)
        if len(self.judges) > 1:
            self.log("test/spearman_judges", agreement_of(self._ranked()))
        if self.real:
            self.log("test/psnr", self.decibels[0] / self.decibels[1])

    def _rows(self, number: int) -> list[dict]:
        """A row a change and control, as one of the judges sees it."""
        judge, rows = self.judges[number], []
        parts = zip(self.changes, judge.found, self.hurt, self.strength.tolist(), strict=True)
        for change, counts, damage, (factors, pictures) in parts:
            for row in change_rows(change, counts, self.class_names, damage):
                if row["edit"] == EQUAL and pictures:
                    row["amount_equal"] = 1 + (change.amount - 1) * factors / pictures
                if row["edit"] in (OWN, OTHERS, EQUAL):
                    latents = change.latents if row["edit"] == OWN else self.others[change.concept]
                    row["latents"] = " ".join(map(str, latents))
                if len(self.judges) > 1:
                    row = {"judge": number + 1, **row}
                rows.append(row)
        return rows

    def _ranked(self) -> list[dict]:
        first = (self.changes[0].amount, self.changes[0].window)
        judged = [self._rows(number) for number in range(len(self.judges))]
        return rankings(
            [[row for row in rows if (row["amount"], row["span"]) == first] for rows in judged]
        )

    def tables(self) -> dict[str, list[Row]]:
        """Every class's effect beside its controls, the strongest first; by each judge."""
        judged = [row for number in range(len(self.judges)) for row in self._rows(number)]
        tables = {"effects": strongest_first(judged)}
        return tables if len(self.judges) == 1 else {**tables, "rankings": self._ranked()}

    # ------------------------------------------------------------------ pictures for a page

    def steered(self) -> SteeredDictionary:
        """What a page says of the dictionary."""
        amount, facts = self.changes[0].amount, {"backbone": self.net.name}
        facts |= {"block": str(self.studied.block), "pictures": self.number}
        facts |= {"latents": self.sae.latents}
        names, density = self.class_names, self.density
        return SteeredDictionary(self.sae, names, self.palette, density, amount, facts)

    def windows(self, number: int) -> list[list[int] | None]:
        """All timesteps, then so many equal parts of them, where a step of this chain lies."""
        return [None, *equal_windows(self.chains, number)]

    def strips(
        self, amounts: Sequence[float | int], windows: Sequence[Sequence[int] | None], seeds: int
    ) -> Iterator[SteeredStrip]:
        """Each class's pictures under every amount in every window, and its latents one by one."""
        judge = self.judges[0]
        for concept, latents in self.wanted:
            indices = self.shown[concept][:seeds]
            images = None
            if self.real and indices:
                data = self.trainer.datamodule.pictures
                images = torch.stack([data[i]["image"] for i in indices])
            grid = StripGrid(list(amounts), list(windows), self.changes[0].amount)
            yield draw_strip(self.chains, judge.labels, concept, latents, indices, images, grid)


def check_damage(timesteps: Sequence[int] | None, net: Backbone) -> list[int]:
    """The timesteps at which damage is measured; none along noise levels."""
    if not timesteps or not isinstance(net.process, Schedule):
        return []
    for each in timesteps:
        net.check_timestep(each)
    return list(timesteps)


def chosen_classes(
    known: ClassLatents, concept: str | list | None, most: int | None, class_names: Sequence[str]
) -> list[tuple[str, list[int]]]:
    """The classes to be measured, with their latents."""
    known.require()
    concepts = [concept] if isinstance(concept, str) else concept
    if concepts == []:
        raise UserError("concept=[] measures nothing: concept=mouth, or null for every class")
    if concepts is None:
        concepts = [name for name, row in known.rows.items() if row["excess"]]
    strangers = [name for name in concepts if name in known.rows and name not in class_names]
    if strangers or not concepts:
        raise UserError(
            f"The labeller says {', '.join(class_names)}, the dictionary was tested on "
            f"{', '.join(known.rows)}: learn a labeller of the same classes"
        )
    return [(str(name), known.of_class(str(name), most)) for name in concepts]


def check_same_classes(pictures: Pictures, class_names: Sequence[str]) -> None:
    """Refuses pictures that say other classes than the labeller."""
    if not pictures.labelled or list(pictures.class_names) != list(class_names):
        raise UserError(
            f"The mean differences come from pictures with the labeller's classes, "
            f"{pictures.name} has others: dataset=…, or model.pictures=null leaves them out"
        )
