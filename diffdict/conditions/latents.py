"""`condition=latents`: each latent of a dictionary off and on, from the same noise.

Beside them random directions of equal length, which say what any change would do.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffdict.conditions.base import ConditionRows, MakesVectors, check_maker
from diffdict.conditions.pictures import PictureVectors
from diffdict.conditions.sources.chosen_pictures import ChosenPictures
from diffdict.data.base import Pictures
from diffdict.errors import UserError, at_least, first_few
from diffdict.representations.codes import BY_CLASS, PooledCodes
from diffdict.results.inputs.class_latents import ClassLatents
from diffdict.seeds import mix

BASES = ("mean", "picture")
OFF, ON = 0.01, 0.99  # quantiles of a latent over the pictures
FEW = 100  # pictures, below which such quantiles say little


class LatentVectors(ChosenPictures):
    """For each latent `each` noises, and from each of them a sample at every strength."""

    def __init__(
        self,
        dataset: Callable[..., Pictures] | None = None,
        split: str = "test",
        latents: Sequence[int] | str | None = None,
        number: int = 8,
        most: int = 1,
        dictionary: str | None = None,
        dictionary_name: str | None = None,
        tables: str | None = None,
        base: str = "mean",
        picture: str | int | None = None,
        strengths: Sequence[float | int] = (0, 1),
        company: bool = False,
        each: int = 4,
        random: int = 16,
        seen_split: str = "train",
        seen_pictures: int | None = 1000,
        seed: int = 0,
        fit: str | None = None,
        side: int | None = None,
        undirected: float | int = 0.0,
    ) -> None:
        """`latents`: numbers; by_class, the first `most` that the test of `dictionary` found for
        every class (`tables`: that test's folder); None, the `number` most variable ones.

        Strength 0 is a latent's 0.01 quantile over `seen_pictures` of `seen_split`, 1 its 0.99
        quantile. All others stay as in the `base`: the mean of those pictures, or one `picture`'s
        own. `company`: they are as they are on average where this one is on, and where it is off.
        `random` directions are as long as the latents' changes are on average, in deviations.
        """
        at_least(1, "condition", number=number, most=most, seen_pictures=seen_pictures)
        at_least(0, "condition", random=random)
        _check_words(latents, base, strengths, company)
        chosen = {"picture": picture} if base == "picture" else {}
        super().__init__(
            dataset, split, chosen, each=each, fit=fit, side=side, undirected=undirected
        )
        self.asked, self.most, self.base, self.company = latents, most, base, company
        self.strengths, self.random, self.seed = [float(one) for one in strengths], random, seed
        self.seen = PictureVectors(dataset, seen_split, None, None, 1, side)
        self.seen.keep_first(seen_pictures)
        tested = dictionary is not None
        self.tested = ClassLatents(dictionary, dictionary_name, tables) if tested else None
        self.latents = self._numbers()
        self.count = number if self.latents is None else len(self.latents)
        self.number = (self.count + random) * each * len(self.strengths)
        self._tables: dict[str, list[dict[str, str | int | float | None]]] = {}

    def _numbers(self) -> list[int] | None:
        """The latents as far as they are known before any picture is seen."""
        if self.asked is None:
            return None
        if self.asked != BY_CLASS:
            return list(self.asked)
        if self.tested is None:
            raise UserError(
                "condition.latents=by_class takes what a dictionary's test found: "
                "representation=codes representation.dictionary=outputs/…, or latents=[…]"
            )
        return list(self.tested.by_class(self.most))

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """Latent after latent, then the random directions; off and on side by side."""
        maker = check_codes(maker)
        if self.seen.count < FEW:
            warnings.warn(
                f"Off and on are quantiles over {self.seen.count} pictures, and of fewer than "
                f"{FEW} they say little: see more, dataset.train_pictures=1000 of toy_faces.",
                stacklevel=2,
            )
        spread = CodeSpread.of(self.seen.vectors(maker, width, device))
        places = self._places(maker, spread)
        base, pictures = spread.mean, None
        if self.chosen:
            base, pictures = self.chosen_vectors(maker, width, device)[0], self.shown(maker)
        changes = [self._switched(spread, base, place) for place in places]
        lengths = [spread.length(on - off) for off, on in changes]
        mean_length = sum(lengths) / len(lengths)
        for index in range(self.random):
            direction = spread.random_direction(mix(self.seed, index))
            changes.append((base, base + mean_length * direction))
            lengths.append(mean_length)
        latents = [maker.latents[place] for place in places] + [-1] * self.random
        self._tables = {"latents": self._found(spread, places, latents, lengths)}
        return self._as_rows(changes, latents, pictures)

    def _as_rows(
        self,
        changes: Sequence[tuple[Tensor, Tensor]],
        latents: Sequence[int],
        pictures: Float[Tensor, "1 3 side side"] | None,
    ) -> ConditionRows:
        """A line a change: each noise at every strength."""
        grid = [
            (line, noise, strength)
            for line in range(len(changes))
            for noise in range(self.each)
            for strength in self.strengths
        ]
        vectors = [torch.lerp(*changes[line], strength) for line, _, strength in grid]
        noises = [noise for _, noise, _ in grid]
        names = self._names(latents)
        return ConditionRows(
            torch.stack(vectors),
            [f"{names[line]} {_spoken(strength)}" for line, _, strength in grid],
            source=[-1 if pictures is None else 0] * len(grid),
            pictures=pictures,
            start=noises,
            steps=noises,
            line=[line for line, _, _ in grid],
            latent=[latents[line] for line, _, _ in grid],
            strength=[strength for _, _, strength in grid],
        )

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """Which latents, from what to what, and the dictionary."""
        chosen = self.count if self.latents is None else self.latents
        return {
            "condition": "latents",
            "latents": chosen,
            "strengths": self.strengths,
            "base": self.base,
            "company": self.company,
            "random": [self.random, self.seed],
            "seen": [self.seen.fingerprint, self.seen.count],
            **self.chosen_facts(check_codes(maker)),
        }

    def tables(self) -> Mapping[str, Sequence[Mapping[str, str | int | float | None]]]:
        """Each latent's class, its two values and how far they are apart."""
        return self._tables

    def _places(self, maker: PooledCodes, spread: "CodeSpread") -> list[int]:
        """Of the latents in the vector."""
        if self.latents is None:
            return spread.most_variable(self.count)
        there = maker.latents
        choices = (
            f"0 to {len(there) - 1}" if there == list(range(len(there))) else first_few(there, 8)
        )
        for latent in self.latents:
            if latent not in there:
                raise UserError(
                    f"condition.latents={list(self.latents)}: latent {latent} is none of those "
                    f"that {maker.name} has, {choices}"
                )
        places = [there.index(latent) for latent in self.latents]
        for latent, place in zip(self.latents, places, strict=True):
            if not spread.off[place] < spread.on[place]:
                raise UserError(
                    f"condition.latents: latent {latent} has no spread, it is active in "
                    f"{int(spread.active[place])} of {self.seen.count} pictures: leave it out, or "
                    "condition.seen_pictures=null"
                )
        return places

    def _switched(
        self, spread: "CodeSpread", base: Float[Tensor, " width"], place: int
    ) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """The vectors with this latent off and on."""
        off, on = spread.company(place) if self.company else (base.clone(), base.clone())
        off[place], on[place] = spread.off[place], spread.on[place]
        return off, on

    def _found(
        self,
        spread: "CodeSpread",
        places: Sequence[int],
        latents: Sequence[int],
        lengths: Sequence[float],
    ) -> list[dict[str, str | int | float | None]]:
        table = []
        for line, (latent, name) in enumerate(zip(latents, self._names(latents), strict=True)):
            place = places[line] if latent >= 0 else None
            table.append(
                {
                    "line": line,
                    "latent": None if place is None else latent,
                    "name": name,
                    "class": self._class(latent),
                    "off": None if place is None else float(spread.off[place]),
                    "on": None if place is None else float(spread.on[place]),
                    "deviation": None if place is None else float(spread.deviation[place]),
                    "length": lengths[line],
                }
            )
        return table

    def _names(self, latents: Sequence[int]) -> list[str]:
        first = len(latents) - self.random
        names = []
        for line, latent in enumerate(latents):
            concept = self._class(latent)
            name = str(latent) + ("" if concept is None else f" {concept}")
            names.append(name if latent >= 0 else f"random {line - first}")
        return names

    def _class(self, latent: int) -> str | None:
        """The class that the dictionary's test found it for, the first if there are more."""
        if latent < 0 or self.tested is None or not self.tested.rows:
            return None
        concepts = self.tested.by_class(self.most).get(latent)
        return concepts[0] if concepts else None


class CodeSpread(NamedTuple):
    """How codes lie over pictures."""

    vectors: Float[Tensor, "pictures width"]
    mean: Float[Tensor, " width"]
    deviation: Float[Tensor, " width"]
    off: Float[Tensor, " width"]  # quantiles
    on: Float[Tensor, " width"]
    active: Float[Tensor, " width"]  # in so many pictures

    @classmethod
    def of(cls, vectors: Float[Tensor, "pictures width"]) -> "CodeSpread":
        """Of all pictures that are seen."""
        quantiles = vectors.new_tensor([OFF, ON])
        off, on = torch.stack([one.quantile(quantiles) for one in vectors.T]).T
        deviation = vectors.std(0, correction=0)
        return cls(vectors, vectors.mean(0), deviation, off, on, (vectors > 0).sum(0))

    def most_variable(self, number: int) -> list[int]:
        """The places of the largest deviations."""
        spread = torch.where(self.off < self.on, self.deviation, 0)
        if number > (there := int((spread > 0).sum())):
            raise UserError(
                f"condition.number={number} latents are asked for, {there} vary over the "
                f"{len(self.vectors)} pictures: condition.number={there}"
            )
        return spread.argsort(descending=True, stable=True)[:number].tolist()

    def company(self, place: int) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """The mean vector where a latent is off, and where it is on: beyond half of its way."""
        is_on = self.vectors[:, place] > (self.off[place] + self.on[place]) / 2
        return self.vectors[~is_on].mean(0), self.vectors[is_on].mean(0)

    def length(self, change: Float[Tensor, " width"]) -> float:
        """In deviations of each dimension; one without spread counts as nothing."""
        return float((change / torch.where(self.deviation > 0, self.deviation, torch.inf)).norm())

    def random_direction(self, seed: int) -> Float[Tensor, " width"]:
        """Of length 1 in deviations."""
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(len(self.mean), generator=generator).to(self.mean)
        return F.normalize(direction * (self.deviation > 0), dim=0) * self.deviation


def check_codes(maker: MakesVectors | None) -> PooledCodes:
    """The dictionary whose latents are switched."""
    maker = check_maker(maker)
    if not isinstance(maker, PooledCodes):
        raise UserError(
            f"condition=latents switches a dictionary's latents, and {maker.name} has none: "
            "representation=codes representation.dictionary=outputs/…"
        )
    return maker


def _check_words(
    latents: Sequence[int] | str | None, base: str, strengths: Sequence, company: bool
) -> None:
    numbers = latents is None or latents == BY_CLASS
    if not numbers and (
        isinstance(latents, str)
        or not latents
        or any(type(latent) is not int for latent in latents)
        or len(set(latents)) < len(latents)
    ):
        raise UserError(
            f"condition.latents is [3,17], numbers of latents, each once, or by_class, or null for "
            f"the most variable ones, got {latents}"
        )
    if base not in BASES:
        raise UserError(f"condition.base is {' or '.join(BASES)}, got {base!r}")
    if base == "picture" and company:
        raise UserError(
            "condition.company=true takes all other latents from averages, so condition.base="
            "picture would not be heard: condition.base=mean, or company=false"
        )
    if not {0.0, 1.0} <= set(strengths) or len(set(strengths)) < len(strengths):
        raise UserError(
            f"condition.strengths are numbers, 0 (off) and 1 (on) among them, each once, got "
            f"{list(strengths)}: condition.strengths=[0,1]"
        )


def _spoken(strength: float) -> str:
    """A strength as captions have it."""
    return {0.0: "off", 1.0: "on"}.get(strength, f"×{strength:g}")
