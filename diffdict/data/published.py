"""Sets that others published: where they lie and under which licence, fetched when asked for."""

from collections.abc import Mapping
from pathlib import Path

from diffdict.errors import UserError
from diffdict.files import download as fetch
from diffdict.files import unpack


def fetch_pictures(
    name: str, path: Path, archive: Mapping[str, str] | None, download: bool
) -> None:
    """Brings what is missing at `path`, if that was asked for.

    `archive`: url, size, licence, and the folder that it unpacks to.
    """
    if not archive:
        raise UserError(f"No folder {path} with the pictures of {name}: dataset.path=…")
    if not download:
        raise UserError(
            f"No pictures of {name} in {path}. They are in {archive['url']} "
            f"({archive['size']}; {archive['licence']}): dataset.download=true fetches it, "
            "or dataset.path=… names the folder you have"
        )
    folder = Path(archive["folder"])
    packed = folder.with_name(Path(archive["url"]).name)
    fetch(archive["url"], packed, note=archive["licence"])
    if not folder.exists():
        try:
            unpack(packed, folder)
        except UserError:
            if not folder.exists():  # else another process has just unpacked it
                raise
    if not path.exists():
        raise UserError(f"{packed} was unpacked to {folder} and holds no {path}")
