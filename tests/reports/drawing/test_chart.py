"""Charts: the same bytes on every machine, PNG and SVG, and no trace left in matplotlib."""

import re
import subprocess
import sys

import matplotlib
import pytest
from PIL import Image

from diffdict.reports.drawing.chart import (
    DPI,
    draw_cells,
    frame_cell,
    name_cells,
    new_figure,
    styled,
    write_chart,
)


@styled()
def drawn():
    figure = new_figure(3.0, 2.0)
    axes = figure.add_subplot()
    draw_cells(
        axes, [[0.1, None], [0.4, 0.2]], [["low", ""], ["high", "some"]], (0, 0.4), "viridis"
    )
    name_cells(axes, ["a", "b"], ["c", "d"])
    frame_cell(axes, 0, 1)
    return figure


@pytest.fixture
def written(tmp_path):
    """The bytes of both files, drawn anew each time."""

    def write(name):
        path = write_chart(drawn(), tmp_path / f"{name}.png")
        return path.read_bytes(), path.with_suffix(".svg").read_bytes()

    return write


def test_the_same_figure_is_the_same_bytes(written, monkeypatch):
    before = written("one")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "red", "image.cmap": "gray"}):
        assert written("two") == before
        assert matplotlib.rcParams["font.size"] == 30, "others keep their style"
    assert not re.search(rb"<dc:date>|Matplotlib v", before[1])


def test_an_svg_holds_its_words_as_text(written, tmp_path):
    png, svg = written("chart")
    for word in (b"low", b"high", b"some", b">a<", b">d<"):
        assert word in svg
    assert png[:4] == b"\x89PNG"
    assert Image.open(tmp_path / "chart.png").size == (3 * DPI, 2 * DPI)


def test_text_is_light_on_dark_and_dark_on_light():
    shades = {text.get_text(): text.get_color() for text in drawn().axes[0].texts}
    assert shades["low"] == shades["some"] != shades["high"]


def test_matplotlib_comes_late_and_pyplot_never(tmp_path):
    check = (
        "import sys; from pathlib import Path; from diffdict.reports.drawing import chart\n"
        "assert 'matplotlib' not in sys.modules\n"
        "chart.write_chart(chart.new_figure(1.0, 1.0), Path(sys.argv[1]))\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, str(tmp_path / "a.png")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]
