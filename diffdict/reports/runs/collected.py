"""What a report on several runs has made: its table and its picture, shown by loggers too."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from diffdict.reports.runs.rows import Row, columns_of, spoken


class Collected(NamedTuple):
    """A table, and the picture drawn of it."""

    name: str
    rows: list[Row]
    picture: Path | None  # none where there is only a table

    def log(self, loggers: Iterable[object]) -> None:
        """To wandb, as a table and an image; other loggers have no tables."""
        for logger in loggers:
            if not hasattr(logger, "log_table"):
                continue
            columns = columns_for_wandb(self.rows)
            lines = zip(*columns.values(), strict=True)
            logger.log_table(self.name, columns=list(columns), data=list(map(list, lines)))
            if self.picture is not None:
                logger.log_image(f"{self.name}_picture", [str(self.picture)])


def columns_for_wandb(rows: Sequence[Row]) -> dict[str, list]:
    """Columns by name as wandb takes them: each of numbers, or of words."""
    columns = {name: [row.get(name) for row in rows] for name in columns_of(rows)}
    return {name: _of_one_kind(cells) for name, cells in columns.items()}


def _of_one_kind(cells: list) -> list:
    """Numbers, or words."""
    numbers = all(cell is None or isinstance(cell, (int, float)) for cell in cells)
    return cells if numbers else [None if cell is None else spoken(cell) for cell in cells]
