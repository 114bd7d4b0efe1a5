"""A segmenter's answer to one picture: drawn, and as rows of a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.metrics.segmentation import top_tenth
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.colours import colours_of, rainbow
from diffdict.reports.segmentation.sheet import (
    Line,
    draw_sheet,
    heat,
    picture_of,
    save_prediction,
)

SHINES = 0.4  # how much of a picture is seen through its labels


def draw_labels(
    image: Float[Tensor, "3 height width"],
    labels: Int64[Tensor, "height width"],
    uncertainty: Float[Tensor, "height width"],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    folder: Path,
) -> list[dict[str, str | float]]:
    """One picture's prediction in files; a row for each class in it, the largest first."""
    paths = {"labels": "labels.npy", "masks": "mask.png", "uncertainty": "uncertainty.png"}
    palette = palette or rainbow(len(class_names))
    save_prediction(labels, uncertainty, palette, {k: folder / v for k, v in paths.items()})
    picture, colours = picture_of(image, labels), colours_of(labels[None], palette)[0]
    over = np.rint(SHINES * picture + (1 - SHINES) * colours).astype(np.uint8)
    line = Line(
        f"uncertainty {float(top_tenth(uncertainty)):.3f}",
        [picture, over, colours, heat(uncertainty)],
    )
    columns = ("picture", "both", "prediction", "uncertainty")
    write_png(draw_sheet(columns, [line], class_names, palette), folder / "sheet.png")
    rows = []
    for label in labels.unique().tolist():
        inside = labels == label
        row = {"class": class_names[label], "share": float(inside.float().mean())}
        rows.append({**row, "uncertainty": float(uncertainty[inside].mean())})
    return sorted(rows, key=lambda row: -row["share"])
