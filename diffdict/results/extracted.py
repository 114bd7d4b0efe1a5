"""What extract.py has made, as loggers record it: a row a folder, and their sums."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from diffdict.results.tables import Row

COUNTED = ("pictures", "tokens", "bytes")


@runtime_checkable
class Extracts(Protocol):
    """A task or a callback that writes data which others learn from."""

    def extracted(self) -> list[Row]:
        """A row a folder: its `path`, its `pictures` and `bytes`, and `tokens` of features."""


def extracted_by(parts: Iterable[object]) -> list[Row]:
    """The rows of all that extract."""
    return [row for part in parts if isinstance(part, Extracts) for row in part.extracted()]


def totals(rows: Iterable[Row]) -> dict[str, int]:
    """The sums of what is counted in any of these rows."""
    rows = list(rows)
    columns = [name for name in COUNTED if any(name in row for row in rows)]
    return {name: sum(row.get(name, 0) for row in rows) for name in columns}
