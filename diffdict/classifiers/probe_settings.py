"""Checks of what a linear probe is asked for, and of what its checkpoint was learned on."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from diffdict.classifiers.epoch_choice import EPOCHS
from diffdict.errors import UserError, first_few
from diffdict.training.schedule import DECAYS


def check_probe(decay: str, epoch: str) -> None:
    """A decay and a choice of the epoch that there are."""
    if epoch not in EPOCHS:
        raise UserError(f"model.epoch is {' or '.join(EPOCHS)}, got {epoch!r}")
    if decay not in DECAYS:
        raise UserError(f"model.decay is {', '.join(DECAYS)}, got {decay!r}")


def checked_rates(rates: Sequence[float | int] | None, optimizer: partial) -> list[float]:
    """The rates of the heads; None: the optimizer's own."""
    if rates is None:
        return [float(getattr(optimizer, "keywords", {}).get("lr", 1e-3))]
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UserError(f"model.rates are positive numbers, got {list(rates)}: [1e-3,4e-3]")
    return list(dict.fromkeys(map(float, rates)))


def check_same_probe(path: str | Path, theirs: Mapping, ours: Mapping) -> None:
    """Refuses heads that were learned on something else, and says what differs."""
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise UserError(
                f"ckpt_path={path} holds heads of {key} {_shortened(theirs.get(key))}, here "
                f"{'it is' if isinstance(value, str) else 'they are'} {_shortened(value)}: give "
                "what they were learned with, or learn them anew without ckpt_path="
            )


def _shortened(value: object) -> str:
    """For a sentence: the first of many, the beginning of a hash."""
    if isinstance(value, list):
        return first_few(value)
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
