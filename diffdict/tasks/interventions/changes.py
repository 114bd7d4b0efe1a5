"""What is changed in a network while it draws: which latents, by how much, in which timesteps."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from diffdict.errors import UserError
from diffdict.features.codes.studied_dictionary import StudiedDictionary
from diffdict.results.inputs.class_latents import ClassLatents
from diffdict.sae.steering import HOW, check_latents


class Change(NamedTuple):
    """One change of the network: of which latents, by how much, in which timesteps."""

    concept: str | None
    latents: list[int]
    amount: float
    window: list[int] | None

    @property
    def words(self) -> str:
        """For a caption."""
        whose = self.concept or "latents " + " ".join(map(str, self.latents[:4]))
        at = "" if self.window is None else f" {self.window[0]}-{self.window[1]}"
        return f"{whose} x{self.amount:g}{at}"


def chosen_latents(
    known: ClassLatents,
    concept: str | list | None,
    latents: list | None,
    most: int | None,
    number: int,
) -> list[tuple[str | None, list[int]]]:
    """Each concept with its latents, or the latents that were named."""
    if (concept is None) == (latents is None):
        choice = "neither" if concept is None else f"concept={concept} and latents={latents}"
        raise UserError(
            f"Say which latents: concept=mouth or latents=[156,315], one of them, got {choice}"
        )
    if latents is not None:
        if most is not None:
            raise UserError(
                f"most counts a class's latents, and latents={latents} names them, got most={most}:"
                " leave one of them out"
            )
        if not latents:
            raise UserError("latents=[] steers nothing: latents=[156,315], or concept=mouth")
        return [(None, check_latents(latents, number))]
    concepts = [concept] if isinstance(concept, str) else concept
    if not concepts:
        raise UserError("concept=[] steers nothing: concept=mouth, or latents=[156,315]")
    return [(each, known.of_class(str(each), most)) for each in concepts]


def combined(
    wanted: Sequence[tuple[str | None, list[int]]],
    amount: int | float | list,
    window: list | None,
) -> list[Change]:
    """Every set of latents with every amount in every window."""
    amounts = amount if isinstance(amount, list) else [amount]
    if not amounts:
        raise UserError("amount=[] changes nothing: amount=-2, or amount=[-2,0,3]")
    for each in amounts:
        if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            raise UserError(f"amount is a finite number or a list of such, got {each}: amount=-2")
    several = bool(window) and all(isinstance(each, list) for each in window)
    windows = window if several else [window]
    return [
        Change(concept, latents, float(each), span)
        for concept, latents in wanted
        for span in windows
        for each in amounts
    ]


def check_changes(studied: StudiedDictionary, how: str, changes: Sequence[Change]) -> None:
    """Refuses before the first step what none could do."""
    if how not in HOW:
        raise UserError(f"how is {', '.join(HOW[:2])} or {HOW[2]}, got how={how}: how=scale")
    for change in changes:
        studied.edits(change.latents, how, change.amount, window=change.window)


def say_idle(known: ClassLatents, changes: Sequence[Change], how: str) -> None:
    """Says which changes change nothing: pairs of theirs are equal."""
    if how == "scale" and any(change.amount == 1 for change in changes):
        print("amount=1 changes nothing: those pairs are equal")
    if how != "scale" or not known.latents:
        return
    chosen = {latent for change in changes for latent in change.latents}
    if idle := sorted(one for one in chosen if not known.latents[one]["density"]):
        print(f"Never active on the test's pictures: latents {', '.join(map(str, idle))}")
