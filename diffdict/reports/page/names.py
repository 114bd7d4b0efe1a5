"""Names that people give to latents: the file that a page exports, read back."""

import json
from pathlib import Path

from diffdict.errors import UserError

FORM = '{"dictionary": "…", "names": {"123": "left eye"}}'


def read_names(path: str | Path, key: str) -> dict[int, str]:
    """Names by latent's number, from the file that the page of dictionary `key` exported."""
    path = Path(path)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read names from {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): export names from the page") from error
    names = said.get("names") if isinstance(said, dict) else None
    if not isinstance(names, dict) or not all(_is_name(*item) for item in names.items()):
        raise UserError(f"{path} holds no names: a page exports them as {FORM}")
    if said.get("dictionary") != key:
        raise UserError(
            f"The names in {path} belong to dictionary {said.get('dictionary')!r}, this one is "
            f"{key!r}: its numbers mean other latents. Where they do not, change the file's "
            f'"dictionary"'
        )
    return {int(number): name for number, name in names.items()}


def _is_name(number: str, name: object) -> bool:
    return number.isascii() and number.isdigit() and isinstance(name, str)
