"""Names that people give to latents: the file that a page exports, read back."""

import json
from pathlib import Path

from diffdict.errors import UserError

FORM = '{"dictionary": "…", "names": {"123": "left eye"}}'


def read_names(path: str | Path, *keys: str) -> dict[str, dict[int, str]]:
    """Names by latent's number, of each of these dictionaries; a page exports those of one."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read names from {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): export names from the page") from error
    names = content.get("names") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(_is_name(*item) for item in names.items()):
        raise UserError(f"{path} holds no names: a page exports them as {FORM}")
    if (whose := content.get("dictionary")) not in keys:
        ours = f"this one is {keys[0]!r}" if len(keys) == 1 else f"these are {', '.join(keys)}"
        raise UserError(
            f"The names in {path} belong to dictionary {whose!r}, {ours}: its numbers mean other "
            f'latents. Where they do not, change the file\'s "dictionary"'
        )
    mine = {int(number): name for number, name in names.items()}
    return {key: mine if key == whose else {} for key in keys}


def _is_name(number: str, name: object) -> bool:
    return number.isascii() and number.isdigit() and isinstance(name, str)
