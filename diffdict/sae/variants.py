"""Variants of dictionaries by the paths of their classes, as files name them."""

import re
from importlib import import_module

from diffdict.sae.base import Sae


def path_of(variant: type) -> str:
    """Where the class lies: diffdict.sae.topk.TopK."""
    return f"{variant.__module__}.{variant.__qualname__}"


def find_variant(path: str) -> type[Sae] | None:
    """The class, where it is one of this room; nothing else is imported at a file's word."""
    module, _, name = path.rpartition(".")
    if not re.fullmatch(rf"{re.escape(__package__)}\.[a-z]\w*", module):
        return None
    try:
        variant = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return variant if isinstance(variant, type) and issubclass(variant, Sae) else None
