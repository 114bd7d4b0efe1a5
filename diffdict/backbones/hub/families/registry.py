"""The families that backbone=hub knows: of every file beside this one the class that says its own.

By the class of diffusers that a folder's config.json names.
"""

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from diffdict.backbones.hub import families
from diffdict.backbones.hub.families.family import Family
from diffdict.errors import UserError


def known_families() -> Mapping[str, type[Family]]:
    """Every family, by the name of diffusers' class."""
    by_kind: dict[str, type[Family]] = {}
    for file in pkgutil.iter_modules(families.__path__):
        if file.name != Path(__file__).stem:
            module = import_module(f"{families.__name__}.{file.name}")
            classes = [each for each in vars(module).values() if isinstance(each, type)]
            module_classes = [each for each in classes if each.__module__ == module.__name__]
            by_kind |= {
                each.of: each for each in module_classes if issubclass(each, Family) and each.of
            }
    return by_kind


def family_of(config: Mapping, folder: Path) -> Family:
    """The family of a config, where it can look at pictures."""
    kind, by_kind = config.get("_class_name"), known_families()
    if kind not in by_kind:
        raise UserError(
            f"{folder} is a {kind}; backbone=hub takes {', '.join(by_kind)}: choose another folder"
        )
    family = by_kind[kind](config)
    if (why := family.refusal()) is not None:
        raise UserError(f"{folder} is {why}: choose another folder or dataset.image_size")
    return family
