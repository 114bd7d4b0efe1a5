"""Where the package and its configs are, and whether what was typed is a path at all."""

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffdict.errors import UserError

PACKAGE = Path(__file__).parent.parent
SINGLE = ("ckpt_path", "picture", "names", "folder", "start", "samples", "statistics", "tables")
SEVERAL = ("runs", "dictionary", "labeller")  # keys of the root that also take a list of paths


def folder(name: str) -> str:
    """conf/ or sweeps/: inside the installed package, else beside it in a checkout."""
    packaged = PACKAGE / name
    return str(packaged if packaged.is_dir() else PACKAGE.parent / name)


def at_home(word: str) -> str:
    """A typed word with the home folder in place of ~/, which shells leave behind KEY.KEY=."""
    return re.sub(r"(?<=[=,\[])~(?=/)", lambda _: str(Path.home()), word)


def check_paths(cfg: DictConfig) -> None:
    """Refuses a number, an empty word or a list where a key of the root names a path."""
    for key in (*SINGLE, *SEVERAL):
        value = None if OmegaConf.is_missing(cfg, key) else cfg.get(key)
        is_list = key in SEVERAL and OmegaConf.is_list(value)
        paths = list(value) if is_list else [value]
        if value is None or (paths and all(isinstance(one, str) and one.strip() for one in paths)):
            continue
        kinds = "a path or a list of paths" if key in SEVERAL else "a path"
        first = value[0] if OmegaConf.is_list(value) and value else None
        nothing = "[a,b]" if key == "dictionary" else "null"
        way_out = f"./{value}" if isinstance(value, int) else first or nothing
        raise UserError(f"{key} is {kinds}, got {value!r}: {key}={way_out}")


OmegaConf.register_new_resolver("diffdict.folder", folder, replace=True)
