"""From a config's node to the object that it describes, its keys and values checked first."""

import inspect
import re
from copy import copy
from types import NoneType
from typing import get_args

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from diffdict.errors import UserError, one_line


def make(node: DictConfig, facts: dict | None = None) -> object:
    """The object a node describes; what the data knows fills the arguments that it names."""
    takes = arguments(node["_target_"])
    known = {k: v for k, v in (facts or {}).items() if k in takes and k not in node}
    _check_types(node)
    return instantiate(node, _convert_="all", **known)


def arguments(target: str) -> dict[str, inspect.Parameter]:
    """What a constructor takes; of our own classes also what they hand up as **rest."""
    made, taken = _located(target), {}
    own = inspect.isclass(made) and made.__module__.startswith("diffdict.")
    for kind in inspect.getmro(made) if own else [made]:
        parameters = inspect.signature(kind).parameters
        rest = [key for key, one in parameters.items() if one.kind is one.VAR_KEYWORD]
        taken = {**parameters, **taken}
        if not (own and rest):
            break
        del taken[rest[0]]
    return taken


def _located(target: str) -> object:
    try:
        return get_object(target)
    except ImportError as error:
        raise UserError(
            f"_target_={target} names nothing that can be imported ({one_line(error)}): give "
            "package.module.Name, of a package that is installed or lies in PYTHONPATH"
        ) from error


def settled(data: DictConfig) -> DictConfig:
    """Its node without what evaluate.py left open, and where it has no workers their number.

    That one is said to all by debug=.
    """
    left_open = [key for key in data if OmegaConf.is_missing(data, key)]
    without = [] if "num_workers" in arguments(data["_target_"]) else ["num_workers"]
    known = copy(data)
    with open_dict(known):
        for key in {*left_open, *without} & {*data}:
            del known[key]
    return known


def _check_types(node: DictConfig) -> None:
    """Keys, numbers, words and switches against what the constructors' signatures say."""
    takes = arguments(node["_target_"])
    for key, value in node.items():
        if key not in takes and key[0] != "_" and node["_target_"].startswith("diffdict."):
            place, kind = node._get_full_key(key), node["_target_"].rpartition(".")[2]
            known = ", ".join(name for name, one in takes.items() if one.default is not one.empty)
            raise UserError(
                f"{place} is no setting of {kind}: leave it out (~{place} where a config says it); "
                f"there are {known}"
            )
        if OmegaConf.is_dict(value) and "_target_" in value:
            _check_types(value)
        if key not in takes or OmegaConf.is_config(value):
            continue
        annotation = takes[key].annotation
        allowed = set(get_args(annotation)) or {annotation}
        if allowed <= {int, float, bool, str, NoneType}:
            fits = {type(value)} | ({float} if type(value) is int else set())
            if not fits & allowed:
                names = " or ".join(
                    sorted("null" if t is NoneType else t.__name__ for t in allowed)
                )
                raise UserError(
                    f"{node._get_full_key(key)} must be {names}, got {value!r}{_follows(node, key)}"
                )


def _follows(node: DictConfig, key: str) -> str:
    """Where a value is said, if it is another one's."""
    said = str(OmegaConf.to_container(node, resolve=False)[key])
    other = re.fullmatch(r"\$\{(\w+(?:\.\w+)*)\}", said)
    return f", which is {other[1]}: say {other[1]}=…" if other else ""
