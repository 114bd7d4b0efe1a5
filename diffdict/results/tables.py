"""Tables as rows: what JSON and CSV can hold of them, in Markdown, and on the screen."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.table import Table

from diffdict import files

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]


@runtime_checkable
class HasTables(Protocol):
    """A module with figures in rows: results.json and CSV files keep them."""

    def tables(self) -> dict[str, list[Row]]:
        """Rows by the table's name, as they were last measured."""


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The names of all columns, in the order in which they first come."""
    return list(dict.fromkeys(column for row in rows for column in row))


def as_csv(rows: Sequence[Row]) -> str:
    """Rows under the names of all their columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows([files.as_json_values(dict(row)) for row in rows])
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """The same as a table in a README."""
    columns = columns_of(rows)
    lines = [columns, ["---"] * len(columns)]
    lines += [[format_cell(row.get(column)) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def print_rows(rows: Sequence[Row], title: str | None = None) -> None:
    """The same on the screen."""
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    columns = columns_of(rows)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(format_cell(row.get(column)) for column in columns))
    Console(soft_wrap=True).print(table)


def format_cell(value: object) -> str:
    """A cell for people: four digits, nothing for none, lists without spaces."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(format_cell, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
