"""Files that are whole or absent: atomic writes, free space, checked downloads, safe archives."""

from diffdict.files.archive import unpack
from diffdict.files.atomic import (
    bytes_bar,
    console,
    free_bytes,
    fsync,
    human_bytes,
    plain_disk_errors,
    publish,
    remove,
    require_space,
    sha256,
    temporary,
    writable_folder,
    write_atomic,
)
from diffdict.files.fetch import download
from diffdict.files.folder import fresh, unused, write_folder
from diffdict.files.hub_address import HubAddress, hub_address, on_hub
from diffdict.files.hub_repository import HubRepository, hub_folder, is_same
from diffdict.files.json_text import as_json_values, json_text
from diffdict.files.lock import busy, exclusive_folder

__all__ = [
    "HubAddress",
    "HubRepository",
    "as_json_values",
    "busy",
    "bytes_bar",
    "console",
    "download",
    "exclusive_folder",
    "free_bytes",
    "fresh",
    "fsync",
    "hub_address",
    "hub_folder",
    "human_bytes",
    "is_same",
    "json_text",
    "on_hub",
    "plain_disk_errors",
    "publish",
    "remove",
    "require_space",
    "sha256",
    "temporary",
    "unpack",
    "unused",
    "writable_folder",
    "write_atomic",
    "write_folder",
]
