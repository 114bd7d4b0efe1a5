"""Builds the object that a node of a config describes, after a check of its keys and values."""

import inspect
import re
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from diffdict.errors import UserError, one_line
from diffdict.sae.grid import LISTED

SCALARS = (int, float, bool, str, NoneType)
STANDS_FOR = {Sequence: list, tuple: list, Path: str}  # how a config writes what a signature says


def make(node: DictConfig, facts: dict | None = None) -> object:
    """The object that a node describes; the data's facts fill the arguments of the same names."""
    parameters = arguments(node["_target_"])
    from_facts = {k: v for k, v in (facts or {}).items() if k in parameters and k not in node}
    _check_types(node)
    try:
        return instantiate(node, _convert_="all", **from_facts)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            place = str(error).partition("full_key: ")[2].strip()
            raise UserError(_placed(node, place, str(error.__cause__))) from error
        raise


def _placed(node: DictConfig, place: str, message: str) -> str:
    """The message, which names a bare argument of its class, with where that argument is typed.

    `place` is where the failing node stands. A node that refers to another is typed there, as
    `model.net: ${backbone}` is.
    """
    failed, address = node._get_root(), ""
    for key in filter(None, place.split(".")):
        value = OmegaConf.to_container(failed, resolve=False)[key]
        reference = re.fullmatch(r"\$\{(\w+(?:\.\w+)*)\}", str(value))
        address = reference[1] if reference else f"{address}.{key}".lstrip(".")
        failed = failed[key]
        if not OmegaConf.is_dict(failed):
            return message
    argument = re.match(r"\w+(?= )", message)
    is_bare = address and argument and argument[0] in arguments(failed["_target_"])
    return f"{address}.{message}" if is_bare else message


def arguments(target: str) -> dict[str, inspect.Parameter]:
    """A constructor's parameters; of diffdict's classes also those passed up as **kwargs."""
    located, collected = _located(target), {}
    is_ours = inspect.isclass(located) and located.__module__.startswith("diffdict.")
    for kind in inspect.getmro(located) if is_ours else [located]:
        parameters = inspect.signature(kind).parameters
        rest = [key for key, one in parameters.items() if one.kind is one.VAR_KEYWORD]
        collected = {**parameters, **collected}
        if not (is_ours and rest):
            break
        del collected[rest[0]]
    return collected


def _located(target: str) -> object:
    try:
        return get_object(target)
    except ImportError as error:
        raise UserError(
            f"_target_={target} names nothing that can be imported ({one_line(error)}): give "
            "package.module.Name, of a package that is installed or lies in PYTHONPATH"
        ) from error


def drop_unset(data: DictConfig) -> DictConfig:
    """Drops unset (`???`) keys of the data module's node.

    Also drops `num_workers`, which debug= sets for all, where the data module does not take it.
    """
    unset = [key for key in data if OmegaConf.is_missing(data, key)]
    not_taken = [] if "num_workers" in arguments(data["_target_"]) else ["num_workers"]
    node = copy(data)
    with open_dict(node):
        for key in {*unset, *not_taken} & {*data}:
            del node[key]
    return node


def _check_types(node: DictConfig) -> None:
    """Checks a node's keys and the types of its values against the constructor's signature."""
    parameters = arguments(node["_target_"])
    for key, value in node.items():
        if key not in parameters and key[0] != "_" and node["_target_"].startswith("diffdict."):
            place, kind = node._get_full_key(key), node["_target_"].rpartition(".")[2]
            optional = [k for k, one in parameters.items() if one.default is not one.empty]
            settings = ", ".join(optional)
            raise UserError(
                f"{place} is no setting of {kind}: leave it out (~{place} where a config says it); "
                f"there are {settings}"
            )
        if OmegaConf.is_dict(value) and "_target_" in value:
            _check_types(value)
        if key not in parameters or (key in LISTED and OmegaConf.is_list(value)):
            continue
        if (kinds := _kinds(parameters[key].annotation)) and not _fits(value, kinds):
            raise UserError(
                f"{node._get_full_key(key)} must be {' or '.join(sorted(map(_named, kinds)))}, "
                f"got {value!r}{_follows(node, key)}"
            )


def _kinds(annotation: object) -> set[type]:
    """The kinds of values that an argument takes: scalars and lists; none where it takes more."""
    is_union = get_origin(annotation) in (Union, UnionType)
    kinds = set()
    for one in get_args(annotation) if is_union else [annotation]:
        kind = get_origin(one) or one
        kinds.add(STANDS_FOR.get(kind, kind))
    return kinds if kinds <= {*SCALARS, list} else set()


def _fits(value: object, kinds: set[type]) -> bool:
    """Whether a value of a config is of these kinds; a whole number is a float too."""
    if OmegaConf.is_config(value):
        return OmegaConf.is_list(value) and list in kinds
    return bool(({type(value)} | ({float} if type(value) is int else set())) & kinds)


def _named(kind: type) -> str:
    return {NoneType: "null", list: "a list"}.get(kind, kind.__name__)


def _follows(node: DictConfig, key: str) -> str:
    """Names the key that a value refers to, if it is an interpolation."""
    value = str(OmegaConf.to_container(node, resolve=False)[key])
    other = re.fullmatch(r"\$\{(\w+(?:\.\w+)*)\}", value)
    return f", which is {other[1]}: say {other[1]}=…" if other else ""
