"""Tables of runs: a row for each choice, means over seeds, the same in CSV and Markdown."""

import csv

import pytest

from diffdict.reports.sweeps.collected import Collected
from diffdict.reports.table import ResultsTable
from diffdict.results.folders import find_runs
from diffdict.results.tables import as_csv, as_markdown


def test_rows_are_means_over_seeds(sweep, tmp_path, capsys):
    jobs = [
        {"sae": sae, "sae.k": k, "seed": seed, "test/iou": base + seed / 10}
        for sae, k, base in (("topk", 16, 0.1), ("relu", 8, 0.3))
        for seed in (0, 1, 2)
    ]
    folder = sweep(*jobs)
    made = ResultsTable(tmp_path / "out").collect(find_runs(str(folder)))
    assert [(row["sae"], row["n"]) for row in made.rows] == [("relu", 3), ("topk", 3)]
    assert made.rows[1]["test/iou"] == pytest.approx(0.2)
    assert made.rows[1]["test/iou std"] == pytest.approx(0.1)
    assert (tmp_path / "out/table.md").read_text().splitlines()[2:] == [
        "| relu | 8 | 3 | 0.4 ± 0.1 |",
        "| topk | 16 | 3 | 0.2 ± 0.1 |",
    ]
    with (tmp_path / "out/table.csv").open() as file:
        kept = [float(row["test/iou std"]) for row in csv.DictReader(file)]
    assert kept == pytest.approx([0.1, 0.1])
    assert "0.2 ± 0.1" in capsys.readouterr().out


def test_other_settings_may_be_averaged_too(sweep, tmp_path):
    jobs = [{"block": b, "dataset.split": s, "test/miou": b + s} for b in (1, 2) for s in (0, 1)]
    runs = find_runs(str(sweep(*jobs)))
    made = ResultsTable(tmp_path, over=["seed", "dataset.split"]).collect(runs)
    assert [(row["block"], row["n"], row["test/miou"]) for row in made.rows] == [
        (1, 2, 1.5),
        (2, 2, 2.5),
    ]
    assert [row["n"] for row in ResultsTable(tmp_path, over=None).collect(runs).rows] == [1] * 4


def test_a_single_run_has_no_deviation(sweep, tmp_path):
    ResultsTable(tmp_path).collect(find_runs(str(sweep({"test/iou": 0.123456}))))
    assert (tmp_path / "table.md").read_text().splitlines()[-1] == "| 1 | 0.123 |"


def test_rows_may_differ_in_their_columns():
    rows = [{"a": 1, "b": "x, y"}, {"a": None, "c": True}]
    assert list(csv.DictReader(as_csv(rows).splitlines())) == [
        {"a": "1", "b": "x, y", "c": ""},
        {"a": "", "b": "", "c": "True"},
    ]
    assert as_markdown(rows).splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1 | x, y |  |",
        "|  |  | True |",
    ]


def test_loggers_with_tables_show_what_was_collected(tmp_path):
    class Logger:
        def log_table(self, name, columns, data):
            self.table = name, columns, data

        def log_image(self, name, images):
            self.image = name, images

    rows = [{"block": 3, "fvu": 0.5}, {"block": "layer1", "fvu": None}, {"block": None, "l0": 32}]
    logger = Logger()
    Collected("heatmap", rows, tmp_path / "a.png").log([object(), logger])
    columns, data = ["block", "fvu", "l0"], [["3", 0.5, None], ["layer1", None, None]]
    assert logger.table == ("heatmap", columns, [*data, [None, None, 32]])
    assert logger.image == ("heatmap_picture", [str(tmp_path / "a.png")])
