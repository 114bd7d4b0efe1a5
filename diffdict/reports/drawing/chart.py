"""Charts by matplotlib: one style for all, maps of cells, and files, a PNG with its SVG beside it.

Figures are objects of their own and no state of pyplot; matplotlib is imported when one is drawn.
"""

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffdict import files
from diffdict.reports.drawing.canvas import EMPTY, FAINT, INK, PAPER

DPI = 160
# told apart by the colour-blind too (Okabe and Ito 2008)
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#78582a", "#5a5a5a")
MARKERS = ("o", "s", "^", "D")  # the next one once the colours are used up
LIGHT = 0.5  # cells brighter than this are written on in ink
GAP, SMALL = 1.5, 7.5  # points between cells; size of the text in them
STYLE = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.edgecolor": INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # it comes with matplotlib
    "font.size": 9,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": EMPTY,
    "hatch.color": FAINT,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text, which a paper's editor may change
    "svg.hashsalt": "diffdict",  # the same names of parts each time
}


@contextmanager
def styled() -> Iterator[None]:
    """What is drawn within has the style, whatever the machine's own matplotlibrc says."""
    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # not that it looked for fonts
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty one of so many inches, whose parts make room for each other's text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_chart(figure: "matplotlib.figure.Figure", path: Path) -> Path:
    """The PNG at this path and the SVG beside it, the same bytes for the same figure."""
    nothing = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with styled():
        for kind, metadata in nothing.items():
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=DPI, metadata=metadata)
            files.write_atomic(path.with_suffix(f".{kind}"), data.getvalue())
    return path


def draw_cells(
    axes: "matplotlib.axes.Axes",
    values: Sequence[Sequence[float | int | None]],
    texts: Sequence[Sequence[str]],
    limits: Sequence[float | int],
    colours: str,
) -> "matplotlib.collections.QuadMesh":
    """A map of values, row after row from the top, with a text in each; hatched where is None."""
    from matplotlib.patches import Rectangle

    numbers = [[math.nan if value is None else value for value in row] for row in values]
    ends = {"vmin": limits[0], "vmax": limits[1]}
    mesh = axes.pcolormesh(numbers, cmap=colours, edgecolors=PAPER, lw=GAP, **ends)
    axes.set(xlim=(0, len(numbers[0])), ylim=(len(numbers), 0))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is None:
                missing = Rectangle((x, y), 1, 1, fc=EMPTY, ec=PAPER, lw=GAP, hatch="////")
                axes.add_patch(missing)
                continue
            red, green, blue, _ = mesh.to_rgba(value)
            ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > LIGHT else PAPER
            middle = {"ha": "center", "va": "center", "linespacing": 1.0}
            axes.text(x + 0.5, y + 0.5, texts[y][x], fontsize=SMALL, color=ink, **middle)
    return mesh


def name_cells(
    axes: "matplotlib.axes.Axes", columns: Sequence[str], rows: Sequence[str], **lean: object
) -> None:
    """Words beside the rows and at the columns, which may lean there."""
    axes.set_xticks([place + 0.5 for place in range(len(columns))], columns, **lean)
    axes.set_yticks([place + 0.5 for place in range(len(rows))], rows)


def frame_cell(axes: "matplotlib.axes.Axes", column: int, row: int) -> None:
    """A frame that is dark and light, so that it is seen on every colour."""
    from matplotlib.patches import Rectangle

    for colour, width in ((INK, 4), (PAPER, 1)):
        frame = Rectangle((column, row), 1, 1, fill=False, ec=colour, lw=width, zorder=3)
        axes.add_patch(frame).set_clip_on(False)
