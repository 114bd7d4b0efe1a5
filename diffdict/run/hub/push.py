"""`diffdict push PATH hf://user/name licence=…`: a dictionary or features, onto the hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from diffdict import files
from diffdict.errors import UserError, command
from diffdict.features.store import FeatureStore
from diffdict.results.folders import read_results
from diffdict.run.hub.model_card import GRID, model_card
from diffdict.run.hub.store_card import store_card
from diffdict.sae import saelens
from diffdict.sae.grid import ALONE

FOLDER = "dictionary"  # of a run, and of the repository: SAELens's `sae_id`
PARTS = (saelens.CONFIG, saelens.WEIGHTS, saelens.CARD)
TABLES = ("classes.csv", "latents.csv")
CARD = "README.md"


class PushOptions(NamedTuple):
    """What is said behind the address."""

    licence: str  # of what is pushed, in the hub's words: mit, cc-by-4.0, …
    private: bool = False
    evaluation: str | None = None  # a run of evaluate.py: its figures, and its concept grid
    grid: bool = True  # whether the concept grid, which shows pictures of the test split, comes too


def push(path: str, address: str, words: Mapping[str, str]) -> str:
    """Onto the hub, and a sentence about it."""
    place, folder = files.hub_address(address), Path(path)
    if place.inside:
        raise UserError(
            f"{address} names a folder: a push is of a whole repository, {_whole(place)}"
        )
    options = _options(words, path, address)
    if not folder.is_dir():
        raise UserError(f"{path} is no folder: name a run of task=sae, or a folder of features")
    if stores := sorted(each.parent for each in folder.rglob("store.json")):
        return push_stores(stores, place, options)
    return push_dictionary(folder, place, options)


def push_dictionary(run: Path, address: files.HubAddress, options: PushOptions) -> str:
    """In one commit: dictionary/ as a run keeps it, the model card, tables, the concept grid."""
    if address.kind != "model":
        raise UserError(f"{address} is for features: a dictionary goes to hf://{address.repo}")
    folder = run / FOLDER if (run / FOLDER).is_dir() else run
    exports = sorted(each.parent for each in folder.rglob(saelens.CONFIG))
    if not exports:
        raise UserError(
            f"{run} holds neither a dictionary nor features: name a run of task=sae, which has "
            f"{FOLDER}/, or a folder with {'store.json'} in it, such as features/"
        )
    cards = {}
    for export in exports:
        saelens.load(export)  # whole, or refused here and not by whoever fetches it
        name = ALONE if export == folder else str(export.relative_to(folder))
        cards[name] = saelens.read_json(export / saelens.CARD)
    evaluation = _evaluation(run, options)
    results = read_results(evaluation) or {}
    contents: dict[str, Path | bytes] = {
        f"{FOLDER}/{export.relative_to(folder) / part}": export / part
        for export in exports
        for part in PARTS
    }
    contents |= {name: evaluation / name for name in TABLES if (evaluation / name).is_file()}
    grid = _grid(evaluation) if options.grid else None
    if grid is not None:
        contents[GRID] = grid
    text = model_card(
        cards, results.get("metrics", {}), address.repo, options.licence, grid is not None
    )
    contents[CARD] = text.encode()
    repository = files.HubRepository(address)
    repository.create(options.private)
    new = repository.push(contents, replaced=FOLDER)
    without = "" if results else " No figures: the run has no results.json, or evaluation=RUN."
    return f"{address}: {new} of {len(contents)} files were new there.{without}"


def push_stores(stores: list[Path], address: files.HubAddress, options: PushOptions) -> str:
    """Shard by shard, under DATASET/BACKBONE/SPLIT/, each store's own facts last."""
    if address.kind != "dataset":
        raise UserError(f"Features are a dataset there: hf://datasets/{address.repo}")
    whole = {path: FeatureStore.open(path) for path in stores}
    for store in whole.values():
        store.verify()
    repository = files.HubRepository(address)
    repository.create(options.private)
    remote, contents = repository.contents(), {}
    for path in whole:
        where = "/".join(path.absolute().parts[-3:])
        facts = f"{where}/store.json"
        if facts in remote and not files.is_same(path / "store.json", remote[facts]):
            raise UserError(
                f"{address} holds other features as {where}: push to another repository, or give "
                "these another name (dataset.name=, backbone.name=)"
            )
        inner = sorted(each for each in path.rglob("*") if each.is_file() and each.suffix != ".tmp")
        contents |= {f"{where}/{each.relative_to(path).as_posix()}": each for each in inner}
    contents = dict(sorted(contents.items(), key=lambda item: item[1].name == "store.json"))
    total = sum(file.stat().st_size for file in contents.values())
    for number, size in repository.push_many(contents):
        of = f"{number} of {len(contents)} files", files.human_bytes(size), files.human_bytes(total)
        files.console().print("push: {}, {} of {}".format(*of), highlight=False)
    repository.push({CARD: store_card(whole.values(), address.repo, options.licence).encode()})
    return f"{address}: {len(whole)} stores, {len(contents)} files, {files.human_bytes(total)}"


def _options(words: Mapping[str, str], path: str, address: str) -> PushOptions:
    """The words, checked; a licence has to be said."""
    fields = PushOptions._fields
    if unknown := [word for word in words if word not in fields]:
        raise UserError(f"{unknown[0]} is no setting of push: {', '.join(fields)}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", words.get("licence", "")):
        proposal = command("diffdict", "push", path, address, "licence=cc-by-4.0")
        raise UserError(
            "Nobody may use what has no licence: say one in the hub's words (mit, cc-by-4.0, "
            f"cc-by-nc-4.0, other), which those of pictures and weights allow: {proposal}"
        )
    for word in ("private", "grid"):
        if words.get(word, "true") not in ("true", "false"):
            raise UserError(f"{word} is true or false, got {words[word]!r}: {word}=true")
    return PushOptions(
        words["licence"],
        words.get("private") == "true",
        words.get("evaluation"),
        words.get("grid") != "false",
    )


def _evaluation(run: Path, options: PushOptions) -> Path:
    """The run whose figures are shown: the training itself, or an evaluation of it."""
    if options.evaluation is None:
        return run
    folder = Path(options.evaluation)
    results = read_results(folder)
    checkpoint = (results or {}).get("config", {}).get("ckpt_path")
    if checkpoint is None or run.absolute() not in Path(checkpoint).absolute().parents:
        of = "has no results.json" if results is None else f"is of {checkpoint}"
        raise UserError(
            f"evaluation={folder} {of}: name a run of evaluate.py ckpt_path={run}/last.ckpt"
        )
    return folder


def _grid(run: Path) -> Path | None:
    """What report=grid drew of a dictionary."""
    pictures = sorted((run / "grid").glob("*.png"))
    return pictures[0] if pictures else None


def _whole(address: files.HubAddress) -> str:
    return str(address._replace(inside=""))
