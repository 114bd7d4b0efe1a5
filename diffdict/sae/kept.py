"""A dictionary from wherever one is kept: an export, a run, its checkpoint, an ae.pt."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from diffdict.checkpoints import load_strictly, resolve
from diffdict.checkpoints.read import find_layout, read
from diffdict.errors import UserError
from diffdict.sae import dictionary_learning, saelens
from diffdict.sae.base import Sae
from diffdict.sae.several import apart
from diffdict.sae.variants import find_variant


class Kept(NamedTuple):
    """A dictionary, and what an export says of it: None where a run's config does."""

    sae: Sae
    card: dict | None


def load(path: str | Path, name: str | None = None) -> Kept:
    """`name` chooses among dictionaries that were learned side by side: scale20."""
    path = Path(path)
    if path.is_dir():
        folder = _chosen_folder(path, name)
        card = folder / saelens.CARD
        return Kept(saelens.load(folder), saelens.read_json(card) if card.is_file() else {})
    if path.is_file() and find_layout(read(path)[0], path) == "flat":
        return Kept(dictionary_learning.load(path), {})
    return Kept(_from_checkpoint(path, name), None)


def _chosen_folder(path: Path, name: str | None) -> Path:
    """The export in this folder, in its dictionary/, or the one of that name below either."""
    if (path / "dictionary").is_dir():
        path = path / "dictionary"
    if name is None and (path / saelens.CONFIG).is_file():
        return path
    held = (each.parent for each in path.glob(f"*/{saelens.CONFIG}"))
    names = sorted(each.name for each in held if each.suffix != ".tmp")  # killed in mid-export
    chosen = names[0] if name is None and len(names) == 1 else name
    if names and chosen not in names:
        raise UserError(_which(path, name, names))
    return path / chosen if names else path


def _which(path: Path, name: str | None, names: Sequence[str]) -> str:
    asked = "name one of them" if name is None else f"got name={name!r}"
    return (
        f"{path} holds {len(names)} dictionaries ({', '.join(names)}), {asked}: "
        f"Dictionary.load(path, name={names[0]!r})"
    )


def _from_checkpoint(path: Path, name: str | None) -> Sae:
    """The dictionary in a run's checkpoint, its average where one was kept."""
    content, _ = read(resolve(path))
    said, state = content.get("dictionaries"), content.get("state_dict")
    if not isinstance(said, Mapping) or not isinstance(state, Mapping):
        raise UserError(
            f"{path} holds no dictionary: it is no run of task=sae. Name its last.ckpt or the "
            f"folder dictionary/ beside it"
        )
    settings = dict(said["sae"])
    target = settings.pop("_target_")
    if (variant := find_variant(target)) is None:
        raise UserError(
            f"{path} holds a {target!r}, which is none of diffdict's and is not imported at a "
            f"file's word: name the folder dictionary/ beside it, which has the same codes"
        )
    plans = apart(partial(variant, **settings))
    if name not in plans and not (name is None and len(plans) == 1):
        raise UserError(_which(path, name, list(plans)))
    name = name or next(iter(plans))
    averages = any(key.startswith("ema.") for key in state)
    prefix = f"{'ema' if averages else 'saes'}.{name}."
    own = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    sae = plans[name](said["d_in"])
    load_strictly(sae, own, path)
    return sae
