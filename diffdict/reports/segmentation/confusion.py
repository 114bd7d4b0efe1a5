"""What is taken for what: a confusion matrix as a chart."""

from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor

from diffdict.reports.drawing.chart import draw_cells, frame_cell, name_cells, new_figure, styled

CELL, LETTER, AROUND = 0.3, 0.075, 0.6  # inches of a cell's side; of a letter; of the rest
LEAST = 3.4  # inches across, for the words above
WRITTEN = 0.5  # per cent from here on are written into their cells
TILT = 60  # degrees of the names above the columns


@styled()
def draw_confusion(
    pixels: Int64[Tensor, "classes classes"], class_names: Sequence[str]
) -> "matplotlib.figure.Figure":
    """A row for each class that has pixels: how many of a hundred were taken for what."""
    rows = [label for label in range(len(pixels)) if pixels[label].any()]
    columns = [label for label in range(len(pixels)) if pixels[:, label].any() or label in rows]
    shares = (100 * pixels.double() / pixels.sum(1, keepdim=True).clamp(min=1)).tolist()
    values = [[shares[row][column] for column in columns] for row in rows]
    texts = [[f"{value:.0f}" if value >= WRITTEN else "" for value in row] for row in values]
    names = LETTER * max(map(len, class_names)) + AROUND
    figure = new_figure(max(LEAST, CELL * len(columns) + names), CELL * len(rows) + names)
    axes = figure.add_subplot()
    draw_cells(axes, values, texts, (0, 100), "Blues")
    for place, label in enumerate(rows):
        frame_cell(axes, columns.index(label), place)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    words = ([class_names[label] for label in labels] for labels in (columns, rows))
    name_cells(axes, *words, rotation=TILT, ha="left", rotation_mode="anchor")
    axes.set(xlabel="taken for (% of the class's pixels)", ylabel="class")
    return figure
