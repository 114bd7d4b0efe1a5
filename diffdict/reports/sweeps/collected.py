"""What a report on several runs has made: its table and its picture, shown by loggers too."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from diffdict.results.folders import Runs
from diffdict.results.tables import Row, columns_of, format_cell


@runtime_checkable
class ShowsTables(Protocol):
    """A logger that takes tables and pictures, as wandb's does."""

    def log_table(self, key: str, columns: list[str], data: list[list]) -> None:
        """Rows under the names of their columns."""

    def log_image(self, key: str, images: list) -> None:
        """Pictures, by their paths."""


class Collected(NamedTuple):
    """A table, and the picture drawn of it."""

    name: str
    rows: list[Row]
    picture: Path | None  # none where there is only a table

    def log(self, loggers: Iterable[object]) -> None:
        """To wandb, as a table and an image; other loggers have no tables."""
        for logger in loggers:
            if not isinstance(logger, ShowsTables):
                continue
            columns = columns_for_wandb(self.rows)
            lines = zip(*columns.values(), strict=True)
            logger.log_table(self.name, columns=list(columns), data=list(map(list, lines)))
            if self.picture is not None:
                logger.log_image(f"{self.name}_picture", [str(self.picture)])


@runtime_checkable
class CollectsRuns(Protocol):
    """A report on finished runs: `runs=`."""

    def collect(self, runs: Runs) -> Collected:
        """Draws, writes and prints what these runs have found."""


def columns_for_wandb(rows: Sequence[Row]) -> dict[str, list]:
    """Columns by name as wandb takes them: each of numbers, or of words."""
    columns = {name: [row.get(name) for row in rows] for name in columns_of(rows)}
    return {name: _of_one_kind(cells) for name, cells in columns.items()}


def _of_one_kind(cells: list) -> list:
    """Numbers, or words."""
    numbers = all(cell is None or isinstance(cell, (int, float)) for cell in cells)
    return cells if numbers else [None if cell is None else format_cell(cell) for cell in cells]
