"""Loads a dictionary from an export, a run, its checkpoint, or another library's file."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from diffdict import files
from diffdict.checkpoints import load_strictly
from diffdict.checkpoints.read import read
from diffdict.errors import UserError
from diffdict.sae import dictionary_learning, saelens
from diffdict.sae.base import Sae
from diffdict.sae.grid import expand_grid
from diffdict.sae.variants import find_variant


class LoadedDictionary(NamedTuple):
    """A dictionary with the card of its export; None for a checkpoint, which has a config."""

    sae: Sae
    card: dict | None


def load_dictionary(path: str | Path, name: str | None = None) -> LoadedDictionary:
    """`name`, such as scale20, selects one of several of a run; hf://user/name is fetched."""
    path = files.hub_folder(path) if files.on_hub(path) else Path(path)
    if path.is_dir():
        folder = _chosen_folder(path, name)
        card = folder / saelens.CARD
        return LoadedDictionary(
            saelens.load(folder), saelens.read_json(card) if card.is_file() else {}
        )
    if not path.is_file():
        raise UserError(
            f"No dictionary at {path}: name a run of task=sae, its last.ckpt or its dictionary/, "
            "hf://user/name, or another library's file"
        )
    content, _ = read(path)
    if "dictionaries" in content:
        return LoadedDictionary(_from_checkpoint(path, content, name), None)
    return LoadedDictionary(dictionary_learning.load(path), {})


def _chosen_folder(path: Path, name: str | None) -> Path:
    """The folder of an export: this one, its dictionary/, or the one of that name below either."""
    if (path / "dictionary").is_dir():
        path = path / "dictionary"
    if name is None and (path / saelens.CONFIG).is_file():
        return path
    folders = (each.parent for each in path.glob(f"*/{saelens.CONFIG}"))
    names = sorted(each.name for each in folders if each.suffix != ".tmp")  # killed in mid-export
    selected = names[0] if name is None and len(names) == 1 else name
    if names and selected not in names:
        raise UserError(_which(path, name, names))
    return path / selected if names else path


def _which(path: Path, name: str | None, names: Sequence[str]) -> str:
    choice = "name one of them" if name is None else f"got name={name!r}"
    return (
        f"{path} holds {len(names)} dictionaries ({', '.join(names)}), {choice}: "
        f"Dictionary.load(path, name={names[0]!r})"
    )


def _from_checkpoint(path: Path, content: Mapping, name: str | None) -> Sae:
    """The dictionary in a run's checkpoint: its average, if there is one."""
    record, state = content.get("dictionaries"), content.get("state_dict")
    if not isinstance(record, Mapping) or not isinstance(state, Mapping):
        raise UserError(
            f"{path} holds no dictionary: it is no run of task=sae. Name its last.ckpt or the "
            f"folder dictionary/ beside it"
        )
    settings = dict(record["sae"])
    target = settings.pop("_target_")
    if (variant := find_variant(target)) is None:
        raise UserError(
            f"{path} holds a {target!r}, which is none of diffdict's and is not imported at a "
            f"file's word: name the folder dictionary/ beside it, which has the same codes"
        )
    plans = expand_grid(partial(variant, **settings))
    if name not in plans and not (name is None and len(plans) == 1):
        raise UserError(_which(path, name, list(plans)))
    name = name or next(iter(plans))
    averages = any(key.startswith("ema.") for key in state)
    prefix = f"{'ema' if averages else 'saes'}.{name}."
    weights = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    sae = plans[name](record["d_in"])
    load_strictly(sae, weights, path)
    return sae
