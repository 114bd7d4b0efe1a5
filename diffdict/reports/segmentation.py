"""`report=grid` of a segmenter: what it says of every test picture, and where that is wrong."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from diffdict import files
from diffdict.metrics.segmentation import top_tenth
from diffdict.reports.canvas import FAINT, PAPER, text_at, write_png
from diffdict.reports.colours import as_bytes, colours_of, rainbow
from diffdict.reports.confusion import draw_confusion
from diffdict.reports.figure import fitted
from diffdict.reports.grid import draw_legend
from diffdict.reports.overlay import ladder, tinted

COLUMNS = ("picture", "truth", "prediction", "error", "uncertainty")
SIDE, GAP, LINE = 192, 6, 20  # of a cell, at most; between cells; of a line of text
KINDS = {"labels": ".npy", "masks": ".png", "uncertainty": ".png"}  # a folder each
SHINES = 0.4  # how much of a picture is seen through its labels
WRONG, GREY = (214, 40, 40), 128
TORN = math.log(2)  # divergence of two camps that share no label: from here on as bright as can be


class Line(NamedTuple):
    """A picture's line on a sheet."""

    caption: str
    cells: list[UInt8[np.ndarray, "height width 3"]]


class SegmentationGrid(pl.Callback):
    """After a segmenter's test `<folder>/grid/`; nothing for other tasks.

    Of every test picture, by its number: `labels/00000.npy`, `masks/00000.png` in the classes'
    colours and `uncertainty/00000.png`; `pictures-00000.png` and so on are sheets from that number
    on; and `confusion.png` is what was taken for what.
    """

    def __init__(self, folder: str, rows: int = 8) -> None:
        """`rows`: pictures on a sheet."""
        self.parent, self.rows = Path(folder), rows
        self.folder: Path | None = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One folder for all ranks, which nobody has written into."""
        self.folder, self.sheet = None, []
        if hasattr(pl_module, "vote"):
            folder = files.unused(self.parent / "grid") if trainer.is_global_zero else None
            self.folder = trainer.strategy.broadcast(folder)
            facts = trainer.datamodule.facts
            self.names, self.ignored = facts["class_names"], facts["ignore_label"]
            self.palette = facts.get("palette") or rainbow(len(self.names))

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        """One picture."""
        if self.folder is None:
            return
        labels, name = pl_module.labels(outputs), f"{batch.index:05d}"
        paths = {kind: self.folder / kind / f"{name}{end}" for kind, end in KINDS.items()}
        save_prediction(labels, outputs.uncertainty, self.palette, paths)
        counted = batch.mask != (-1 if self.ignored is None else self.ignored)
        wrong = (labels != batch.mask) & counted
        right = 100 * (1 - float(wrong.sum() / counted.sum().clamp(min=1)))
        doubt = float(top_tenth(outputs.uncertainty))
        said = trainer.datamodule.picture_name("test", batch.index)
        image = trainer.datamodule.picture("test", batch.index)
        cells = [
            *(
                picture_of(image, labels),
                *colours_of(torch.stack([batch.mask, labels]), self.palette),
            ),
            tinted(picture_of(image, labels), wrong.cpu().numpy(), WRONG),
            heat(outputs.uncertainty),
        ]
        self.first = self.first if self.sheet else name
        self.sheet.append(Line(f"{said}: {right:.1f} % right, uncertainty {doubt:.3f}", cells))
        if len(self.sheet) == self.rows:
            self._turn()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last sheet, and the confusion of all pictures."""
        if self.folder is None:
            return
        self._turn()
        if trainer.is_global_zero:
            pixels = pl_module.found[pl_module.vote].pixels.cpu()
            write_png(draw_confusion(pixels, self.names), self.folder / "confusion.png")
            print(f"grid: {self.folder}")

    def _turn(self) -> None:
        """Writes a sheet and takes an empty one."""
        if self.sheet:
            sheet = draw_sheet(COLUMNS, self.sheet, self.names, self.palette)
            write_png(sheet, self.folder / f"pictures-{self.first}.png")
            self.sheet = []


def save_prediction(
    labels: Int64[Tensor, "height width"],
    uncertainty: Float[Tensor, "height width"],
    palette: Sequence[Sequence[int]],
    paths: Mapping[str, Path],
) -> None:
    """Labels as an array and in their colours, and where the members disagree."""
    data = io.BytesIO()
    np.save(data, labels.cpu().numpy().astype(np.uint8 if len(palette) <= 256 else np.int32))
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(paths["labels"], data.getvalue())
    write_png(Image.fromarray(colours_of(labels[None], palette)[0]), paths["masks"])
    write_png(Image.fromarray(heat(uncertainty)), paths["uncertainty"])


def look(
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


def heat(uncertainty: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Dark where all members agree."""
    level = (255 * uncertainty.float() / TORN).clamp(0, 255).round().long()
    return ladder()[level.cpu().numpy()]


def picture_of(
    image: Float[Tensor, "3 height width"] | None, labels: Int64[Tensor, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture; a grey one where it is not here."""
    if image is None:
        return np.full((*labels.shape, 3), GREY, dtype=np.uint8)
    return as_bytes(image[None])[0]


def draw_sheet(
    columns: Sequence[str],
    lines: Sequence[Line],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Image.Image:
    """A line of cells for each picture, and what the colours mean."""
    high = LINE + SIDE + GAP
    width = GAP + len(columns) * (SIDE + GAP)
    below = draw_legend(class_names, palette, width)
    sheet = Image.new("RGB", (width, LINE + len(lines) * high + below.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        text_at(pen, (GAP + place * (SIDE + GAP), 4), column, "la", FAINT)
    for row, line in enumerate(lines):
        y = LINE + row * high
        text_at(pen, (GAP, y + 2), line.caption, "la")
        for place, cell in enumerate(line.cells):
            sheet.paste(fitted(cell, SIDE), (GAP + place * (SIDE + GAP), y + LINE))
    sheet.paste(below, (0, sheet.height - below.height))
    return sheet
