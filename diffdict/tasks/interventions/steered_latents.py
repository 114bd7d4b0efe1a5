"""What `task=steering` changes: latents of a dictionary, or of several, each in its own block."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from diffdict.backbones.base import Backbone, Block, weights_sha256
from diffdict.backbones.denoiser import Edits
from diffdict.errors import UserError
from diffdict.features.codes.studied_dictionary import open_studied
from diffdict.results.inputs.class_latents import ClassLatents
from diffdict.tasks.interventions.changes import (
    check_changes,
    chosen_latents,
    combined,
    say_idle,
)


class SteeringRequest(NamedTuple):
    """What was asked for: whose latents, and what is done to their codes."""

    concept: str | list | None
    latents: list | None
    most: int | None
    how: str
    amount: int | float | list
    window: list | None


class SteeredLatents(nn.Module):
    """A dictionary beside the network, its block, and the changes of its latents in order."""

    def __init__(
        self,
        path: str,
        net: Backbone,
        asked: SteeringRequest,
        *,
        name: str | None = None,
        block: Block | None = None,
        tables: str | None = None,
    ) -> None:
        super().__init__()
        self.path, self.how = f"{path} {name or ''}".strip(), asked.how
        self.studied = open_studied(path, net, name, block, latents=True)
        self.sae = self.studied.sae  # moves with the module
        class_latents = ClassLatents(path, name, tables)
        wanted = chosen_latents(
            class_latents, asked.concept, asked.latents, asked.most, self.sae.latents
        )
        self.changes = combined(wanted, asked.amount, asked.window)
        check_changes(self.studied, self.how, self.changes)
        scaled = self.how == "scale"
        self.units = [
            None if scaled else class_latents.units(each.latents) for each in self.changes
        ]
        say_idle(class_latents, self.changes, self.how)

    @property
    def identity(self) -> dict[str, object]:
        """All that changes a number of an edit."""
        return {
            "dictionary": self.path,
            "dictionary_sha256": weights_sha256(self.sae),
            "block": self.studied.block,
            "changes": [change._asdict() for change in self.changes],
        }

    def edits(self, place: int) -> Edits:
        """The change at this place of the list."""
        change, unit = self.changes[place], self.units[place]
        return self.studied.edits(
            change.latents, self.how, change.amount, unit=unit, window=change.window
        )


def open_steered(
    dictionary: str | Sequence[str],
    net: Backbone,
    asked: SteeringRequest,
    *,
    name: str | None = None,
    block: Block | None = None,
    tables: str | Sequence[str] | None = None,
) -> list[SteeredLatents]:
    """One dictionary, or several whose changes are made together; each has a block of its own."""
    if isinstance(dictionary, str):
        return [SteeredLatents(dictionary, net, asked, name=name, block=block, tables=tables)]
    latents, tables = (
        _one_each(key, value, dictionary)
        for key, value in (("latents", asked.latents), ("tables", tables))
    )
    opened = [
        SteeredLatents(path, net, asked._replace(latents=numbers), name=name, tables=where)
        for path, numbers, where in zip(dictionary, latents, tables, strict=True)
    ]
    blocks = [one.studied.block for one in opened]
    if len(set(blocks)) < len(blocks):
        raise UserError(
            f"dictionary={list(dictionary)} change blocks {', '.join(map(str, blocks))} of "
            f"{net.name} together, and each needs one of its own: dictionaries of other blocks, or "
            "one of these"
        )
    return opened


def _one_each(key: str, value: Sequence | None, dictionary: Sequence[str]) -> list:
    """A setting of every dictionary; None is none of any."""
    if value is None:
        return [None] * len(dictionary)
    if isinstance(value, str) or len(value) != len(dictionary):
        raise UserError(
            f"{key}={value} is one for each of dictionary={list(dictionary)}: "
            + ("latents=[[156],[3,14]]" if key == "latents" else "tables=[A,B]")
        )
    return list(value)
