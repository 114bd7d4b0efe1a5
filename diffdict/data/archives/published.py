"""Sets that others published: where they lie and under which licence, fetched when asked for."""

import os
from collections.abc import Mapping
from pathlib import Path

from diffdict.errors import UserError
from diffdict.files import download as fetch
from diffdict.files import unpack


def find_pictures(name: str, path: Path, archive: Mapping[str, str] | None, download: bool) -> Path:
    """The folder of a set that is not at `path`: in its unpacked archive, fetched if asked for.

    `archive`: url, size, licence, and the folder that it is unpacked to. Where the set's own folder
    lies in it is the archive's affair: it is known by the last part of `path`.
    """
    if not archive:
        raise UserError(f"No folder {path} with the pictures of {name}: dataset.path=…")
    folder = Path(archive["folder"])
    if not path.is_relative_to(folder):
        raise UserError(
            f"No folder {path} with the pictures of {name}: dataset.path=… names the folder you "
            f"have; left out, it is found in {folder}, or fetched there"
        )
    about = f"{archive['url']} ({archive['size']}; {archive['licence']})"
    if not folder.exists():
        if not download:
            raise UserError(
                f"No pictures of {name} in {path}. They are in {about}: dataset.download=true "
                "fetches it, or dataset.path=… names the folder you have"
            )
        _fetch(archive, folder)
    place = folder if path == folder else _folder_named(path.name, folder)
    if place is None:
        raise UserError(
            f"{folder} is there, and no folder in it is called {path.name}: move it away, and "
            f"dataset.download=true fetches {about}; or dataset.path=… names the folder you have"
        )
    return place


def _fetch(archive: Mapping[str, str], folder: Path) -> None:
    """The archive, unpacked; its file stays beside the folder."""
    packed = folder.with_name(Path(archive["url"]).name)
    fetch(archive["url"], packed, note=archive["licence"])
    try:
        unpack(packed, folder)
    except UserError:
        if not folder.exists():  # else another process has just unpacked it
            raise


def _folder_named(name: str, root: Path) -> Path | None:
    """The folder of that name nearest below the root; of several the first by path."""
    above = [Path(inside) for inside, folders, _ in os.walk(root) if name in folders]
    return min((one / name for one in above), key=lambda one: (len(one.parts), one), default=None)
