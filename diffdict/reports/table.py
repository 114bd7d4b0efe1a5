"""`report=table`: finished runs in rows, a row for each choice, mean ± deviation over seeds."""

from collections.abc import Sequence
from pathlib import Path

from diffdict import files
from diffdict.reports.sweeps.collected import Collected
from diffdict.reports.sweeps.points import averaged, compare_points, row_of
from diffdict.results.folders import Runs
from diffdict.results.tables import Row, as_csv, as_markdown, format_cell, print_rows


class ResultsTable:
    """`<folder>/table.csv` and `table.md`, and the same on the screen."""

    def __init__(
        self,
        folder: str | Path,
        metrics: Sequence[str] | None = None,
        over: Sequence[str] | None = ("seed",),
        task: str | None = None,
    ) -> None:
        """`metrics`: by default the usual ones that are there; `over`: what is averaged."""
        self.folder, self.metrics, self.over, self.task = Path(folder), metrics, over, task

    def collect(self, runs: Runs) -> Collected:
        """Writes and prints."""
        _, keys, groups, metrics = compare_points(runs, self.task, self.metrics, self.over)
        rows = [
            row_of(dict(zip(keys, v, strict=True)), points, metrics) for v, points in groups.items()
        ]
        text_rows: list[Row] = [
            {
                **dict(zip(keys, map(format_cell, values), strict=True)),
                "n": len(points),
                **{name: str(averaged(points, name) or "") for name in metrics},
            }
            for values, points in groups.items()
        ]
        folder = files.writable_folder(self.folder)
        files.write_atomic(folder / "table.csv", as_csv(rows).encode())
        files.write_atomic(folder / "table.md", as_markdown(text_rows).encode())
        print_rows(text_rows)
        print(f"table: {folder / 'table.csv'}, {folder / 'table.md'}")
        return Collected("table", rows, None)
