"""Attributes of whole pictures: what each is, its values, and what a mirror makes of them."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError

KINDS = ("binary", "number")
SAME, NEGATED = "same", "negated"
OWN = (SAME, NEGATED, None)  # in a mirror nothing comes from another attribute


class Attribute(NamedTuple):
    """One thing that is said of each picture of a set: a number, NaN where it is unknown.

    `kind`: `binary` is 0 or 1, `number` any finite number.
    `mirrored`: its value in the picture's mirror image. `same`; `negated`: -value of a number,
    1 - value of a binary one; or the name of its twin, whose value it takes, as left and right do;
    None where nobody has said it.
    """

    name: str
    kind: str
    mirrored: str | None = None


def check_attributes(attributes: Sequence[Attribute], place: str) -> None:
    """Names differ, kinds are known, and twins are twins of each other; `place` says whose."""
    by_name = {attribute.name: attribute for attribute in attributes}
    if len(by_name) < len(attributes) or "" in by_name:
        raise UserError(
            f"The attributes of {place} need names that differ, got "
            f"{', '.join(repr(attribute.name) for attribute in attributes)}: give each its own"
        )
    for name, kind, mirrored in attributes:
        if kind not in KINDS:
            raise UserError(
                f"Attribute {name} of {place} is of kind {kind!r}: it must be binary or number"
            )
        if mirrored in OWN:
            continue
        twin = by_name.get(mirrored)
        if twin is None or twin.mirrored != name or twin.kind != kind:
            raise UserError(
                f"In a mirror attribute {name} of {place} becomes {mirrored!r}: it must be same, "
                f"negated, or another attribute of kind {kind} that becomes {name}"
            )


def check_values(
    values: Float[Tensor, " attributes"], attributes: Sequence[Attribute], picture: str
) -> None:
    """Every value is a number, and of a binary attribute 0 or 1; NaN stands for unknown."""
    for value, attribute in zip(values.tolist(), attributes, strict=True):
        if attribute.kind == "binary" and value not in (0, 1) and not math.isnan(value):
            raise UserError(
                f"Attribute {attribute.name} of {picture} is {value:g}: a binary one is 0, 1, or "
                "NaN where it is unknown"
            )
        if math.isinf(value):
            raise UserError(
                f"Attribute {attribute.name} of {picture} is {value}: it must be a finite float32, "
                "or NaN where it is unknown"
            )


def check_mirrors(attributes: Sequence[Attribute], name: str) -> None:
    """Refuses to mirror the pictures of a set that does not say what becomes of its attributes."""
    silent = [attribute.name for attribute in attributes if attribute.mirrored is None]
    if silent:
        raise UserError(
            f"{name} does not say what becomes of {', '.join(silent[:5])}"
            f"{' …' if len(silent) > 5 else ''} in a mirror: data.flip=false, or say it (same, "
            "negated, or the twin's name)"
        )


def mirror_attributes(
    values: Float[Tensor, "*pictures attributes"], attributes: Sequence[Attribute]
) -> Float[Tensor, "*pictures attributes"]:
    """The values of the pictures' mirror images, left and right exchanged; NaN stays NaN.

    What nobody has said of an attribute (`mirrored` is None) is unknown of its mirror image.
    """
    names = [attribute.name for attribute in attributes]
    sources = [
        column if attribute.mirrored in OWN else names.index(attribute.mirrored)
        for column, attribute in enumerate(attributes)
    ]
    mirrored = values[..., sources]
    for column, attribute in enumerate(attributes):
        if attribute.mirrored == NEGATED:
            whole = 1 if attribute.kind == "binary" else 0
            mirrored[..., column] = whole - values[..., column]
        elif attribute.mirrored is None:
            mirrored[..., column] = torch.nan
    return mirrored


def with_twins(columns: Sequence[int], attributes: Sequence[Attribute]) -> list[int]:
    """These columns, then those from which a mirror takes their values."""
    places = {attribute.name: place for place, attribute in enumerate(attributes)}
    twins = [attributes[column].mirrored for column in columns]
    added = [places[twin] for twin in twins if twin not in OWN]
    return list(dict.fromkeys([*columns, *added]))


def asked_columns(asked: str | Sequence[str] | None, facts: Mapping) -> list[int]:
    """Which of a set's attributes are asked for: by name, all of one kind, or all (None)."""
    all_names = [attribute["name"] for attribute in facts["attributes"]]
    if asked is None:
        return list(range(len(all_names)))
    if asked in KINDS:
        columns = [i for i, one in enumerate(facts["attributes"]) if one["kind"] == asked]
        if not columns:
            raise UserError(
                f"data.attributes={asked}, and of the {len(all_names)} attributes of "
                f"{facts['dataset']} none is {asked}: data.attributes=null takes all"
            )
        return columns
    names = [asked] if isinstance(asked, str) else list(dict.fromkeys(asked))
    for name in names:
        if name not in all_names:
            close = get_close_matches(str(name), all_names, 1)
            mean = f"Did you mean {close[0]}? " if close else ""
            raise UserError(
                f"{facts['dataset']} has no attribute {name!r}. {mean}data.attributes is "
                f"binary, number, null or some of {', '.join(all_names)}"
            )
    if not names:
        raise UserError("data.attributes=[] asks for none: null takes all")
    return [all_names.index(name) for name in names]


def asked_facts(facts: Mapping, columns: Sequence[int]) -> dict[str, object]:
    """What a probe of these attributes predicts, in the words of a set's facts."""
    chosen = [facts["attributes"][column] for column in columns]
    names = [attribute["name"] for attribute in chosen]
    return {"num_classes": len(chosen), "class_names": names, "attributes": chosen}


def check_same_attributes(ours: Mapping, theirs: Mapping) -> None:
    """Pictures that a probe is tested on have the attributes that it learned."""
    if ours["attributes"] != theirs["attributes"]:
        raise UserError(
            f"The attributes of {theirs['dataset']} differ from those of its training pictures, "
            f"{len(theirs['attributes'])} from {len(ours['attributes'])}: extract both anew"
        )
