"""Files that several processes may write at once: locked temporaries, and sealed JSON facts."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import xxhash

from diffdict import files
from diffdict.errors import UserError

try:
    import fcntl
except ImportError:  # no advisory locks here: then no temporary file is ever taken for a dead one
    fcntl = None


class StoreError(UserError):
    """A store or a shard that cannot be trusted, or is not what was asked for."""


def open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A temporary file beside the path, locked for as long as its writer lives."""
    while True:
        temp = files.temporary(path)
        file = temp.open("xb")
        if fcntl is None:
            return temp, file
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: what is left there is kept, never swept
            return temp, file
        if temp.exists():  # not swept between its making and its locking
            return temp, file
        file.close()


def sweep(temp: Path) -> bool:
    """Removes a temporary file whose writer is dead; a living one holds its lock."""
    if fcntl is None:
        return False
    try:
        with temp.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temp.unlink(missing_ok=True)
    except OSError:  # alive, already gone, or on a file system that cannot tell
        return False
    return True


def facts_digest(facts: Mapping) -> str:
    """The hash of facts, the same for every order of their names."""
    return xxhash.xxh3_128_hexdigest(files.json_text(facts, sort_keys=True).encode())


def write_once(path: Path, facts: Mapping) -> dict:
    """What that file says: these facts, unless somebody else wrote it first."""
    if not path.exists():
        with files.plain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temp, file = open_temporary(path)
            try:
                sealed = {**facts, "seal": facts_digest(facts)}
                file.write(files.json_text(sealed, indent=1).encode())
                file.flush()
                os.fsync(file.fileno())
                _name_new(temp, path)
            finally:
                temp.unlink(missing_ok=True)
                file.close()
    return read_sealed(path)


def _name_new(temp: Path, path: Path) -> None:
    """Gives the temporary file its name, unless that name is taken."""
    try:
        os.link(temp, path)  # unlike a rename, never replaces what another rank wrote
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        os.replace(temp, path)


def read_sealed(path: Path) -> dict:
    """The facts of a sealed file, or a StoreError when they are not those that were written."""
    try:
        facts = json.loads(path.read_bytes())
        seal = facts.pop("seal")
    except (ValueError, AttributeError, KeyError, TypeError):
        seal, facts = None, {}
    if seal != facts_digest(facts):
        raise StoreError(
            f"{path} was edited or damaged: its seal does not fit. "
            f"Put the original back, or delete {path.parent} and extract again."
        )
    return facts


def require_same(path: Path, stored: Mapping, asked: Mapping) -> None:
    """Nothing, or a StoreError that says which facts differ."""
    if stored != asked:
        raise StoreError(
            f"{path} holds other features than asked for: {differences(stored, asked)}. "
            f"Give what differs a name of its own (backbone.name=, dataset.name=), choose another "
            f"folder (paths.features=), or delete that one."
        )


def differences(stored: Mapping, asked: Mapping) -> str:
    """Every fact that differs, with both values."""
    names = [name for name in {**stored, **asked} if stored.get(name) != asked.get(name)]
    return "; ".join(
        f"{name} is {_short(stored.get(name))} there and {_short(asked.get(name))} here"
        for name in names
    )


def _short(value: object) -> str:
    text = files.json_text(value)
    return text if len(text) <= 80 else f"{text[:76]}…"
