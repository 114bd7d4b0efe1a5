"""Addresses on the Hugging Face hub: hf://user/name, hf://datasets/user/name, with a revision."""

import re
from pathlib import Path
from typing import NamedTuple

from diffdict.errors import UserError

WORD = r"[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(
    rf"hf:/+(?P<kind>datasets/|models/)?(?P<repo>{WORD}/{WORD})"
    r"(?:@(?P<revision>[\w.-]+))?(?:/(?P<inside>[\w./-]+?))?/*",
    re.ASCII,
)


class HubAddress(NamedTuple):
    """A repository there, the revision asked for, and the folder in it."""

    repo: str  # user/name
    kind: str = "model"  # or dataset
    revision: str | None = None  # a branch, a tag, a commit; None: main
    inside: str = ""

    def __str__(self) -> str:
        """As it is typed."""
        where = "datasets/" if self.kind == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{where}{self.repo}{revision}{f'/{self.inside}' if self.inside else ''}"


def on_hub(path: str | Path) -> bool:
    """Whether this names something on the hub; a Path keeps one of the two slashes."""
    return str(path).startswith("hf:/")


def hub_address(path: str | Path) -> HubAddress:
    """The parts of an address."""
    match = ADDRESS.fullmatch(str(path))
    if match is None or ".." in str(path):
        raise UserError(
            f"{str(path)!r} is no address on the hub: hf://USER/NAME, hf://datasets/USER/NAME, "
            "either with @REVISION behind it and a folder in it, such as hf://USER/NAME@v1/FOLDER"
        )
    kind = "dataset" if match["kind"] == "datasets/" else "model"
    return HubAddress(match["repo"], kind, match["revision"], match["inside"] or "")
