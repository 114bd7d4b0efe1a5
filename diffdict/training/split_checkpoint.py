"""What several dictionaries that learn at once keep: each one's own checkpoint and settings."""

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from diffdict.errors import UserError, command, override
from diffdict.sae.grid import ALONE, LISTED
from diffdict.sae.variants import path_of


def chosen(sae: partial, plan: partial) -> dict[str, float | int]:
    """What this one has of the listed values."""
    return {key: plan.keywords[key] for key in LISTED if isinstance(sae.keywords.get(key), list)}


def settings(sae: partial) -> dict:
    """What a checkpoint keeps of a dictionary's settings, in plain values."""
    return {"_target_": path_of(sae.func), **sae.keywords}


def check_same(path: str | Path, theirs: Mapping, sae: partial) -> None:
    """Nothing, or a sentence that names the setting in which a run and its checkpoint differ."""
    unsaid, ours = _defaults(sae.func), settings(sae)
    for key in {**ours, **theirs}:
        before, now = (options.get(key, unsaid.get(key)) for options in (theirs, ours))
        if before != now:
            word = command(override(f"sae.{key}", before))
            raise UserError(
                f"ckpt_path={path} was learned with {word}, here it is {now}: resume "
                f"with {word}{_one_of(theirs, key)}, or start anew without ckpt_path="
            )


def _defaults(variant: type) -> dict:
    """What settings are where nothing says them: an earlier version knew fewer."""
    signatures = [inspect.signature(kind).parameters for kind in reversed(variant.__mro__[:-1])]
    each = [one for parameters in signatures for one in parameters.values()]
    return {one.name: one.default for one in each if one.default is not one.empty}


def _one_of(theirs: Mapping, key: str) -> str:
    """Where one of several dictionaries goes on alone."""
    several = isinstance(theirs.get(key), list)
    return " (one of them goes on from its own checkpoints/NAME/last.ckpt)" if several else ""


def part(checkpoint: Mapping, name: str, group: int, values: Mapping) -> dict:
    """What dictionary `name` would have saved had it learned alone, with these listed values."""
    places = {f"{place}.{name}.": f"{place}.{ALONE}." for place in ("saes", "ema")}
    state = {
        key.replace(old, new, 1): value
        for key, value in checkpoint["state_dict"].items()
        for old, new in places.items()
        if key.startswith(old)
    }
    entries = {
        "state_dict": state,
        "dictionaries": {
            **checkpoint["dictionaries"],
            "sae": {**checkpoint["dictionaries"]["sae"], **values},
        },
    }
    if "optimizer_states" in checkpoint:
        entries["optimizer_states"] = [_own_group(checkpoint["optimizer_states"][0], group)]
        entries["lr_schedulers"] = [
            {key: [value[group]] if isinstance(value, list) else value for key, value in s.items()}
            for s in checkpoint["lr_schedulers"]
        ]
        entries["callbacks"] = {  # a checkpoint callback's state names the files of all together
            key: value
            for key, value in checkpoint["callbacks"].items()
            if not key.startswith("ModelCheckpoint")
        }
    if "sae" in (config := checkpoint.get("config", {})):
        entries["config"] = {**config, "sae": {**config["sae"], **values}}
    return {**checkpoint, **entries}


def _own_group(optimizer: Mapping, group: int) -> dict:
    """One parameter group with its state, its parameters counted from 0."""
    mine = optimizer["param_groups"][group]
    number = {old: new for new, old in enumerate(mine["params"])}
    state = {number[old]: value for old, value in optimizer["state"].items() if old in number}
    return {"state": state, "param_groups": [{**mine, "params": list(number.values())}]}
