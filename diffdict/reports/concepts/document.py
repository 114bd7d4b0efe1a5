"""One HTML file that fetches nothing: template, style, script, and data that stay text."""

import base64
import hashlib
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as resources
from typing import SupportsFloat

from diffdict import files


def asset(package: str, name: str) -> str:
    """A file of a page's folder in the package."""
    return (resources(f"diffdict.reports.concepts.{package}") / name).read_text(encoding="utf-8")


def assets(names: Sequence[str]) -> str:
    """Several files after one another, each named as package/file."""
    return "\n".join(asset(*name.split("/")) for name in names)


def assemble(template: str, style: str, script: str, title: str, data: Mapping[str, str]) -> bytes:
    """The page; its policy allows this style and this script, and pictures that lie in it."""
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'",
        "title": html.escape(title),
        "style": style,
        "script": script,
        **data,
    }
    # one pass: what is put in is never looked at again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template).encode()


def inert(data: Mapping[str, object]) -> str:
    """JSON in which no character can end or open an element."""
    text = files.json_text(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def as_text(data: bytes) -> str:
    """Bytes as a page holds them."""
    return base64.b64encode(data).decode("ascii")


def rounded(values: Iterable[SupportsFloat | None]) -> list[float | None]:
    """Five digits are more than a page shows; what is no number is nothing."""
    return [
        None if value is None or not math.isfinite(value) else float(f"{float(value):.5g}")
        for value in values
    ]


def fact_text(value: str | int | float | None) -> str:
    """A fact as it stands at a page's top."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value)


def _digest(text: str) -> str:
    """How a page's policy names the one script or style that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
