"""`report=grid`: a run's pictures, their masks, and what was found in them, as one PNG."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.canvas import INK, PAPER, font, wide, write_png
from diffdict.reports.colours import as_bytes, colours_of, rainbow
from diffdict.reports.concept_grid import concept_figures

GAP, LINE = 6, 20  # pixels between the cells; height of a line of text
CELL = 128  # small pictures are enlarged to about this side


ON_SHEET, SHOWN = 16, 3  # pictures of a sheet, and of each class in a figure
# Of a module that has been tested, its data, some classes (None: all) and a number of pictures.
Figures = Callable[
    [pl.LightningModule, pl.LightningDataModule, Sequence[str] | None, int], dict[str, Image.Image]
]


class Grid(pl.Callback):
    """`<folder>/grid.png`: the first pictures that a run saw, with what was predicted.

    After a test of a task in `FIGURES` its own figures instead, in a folder: `grid/concepts.png`.
    """

    def __init__(
        self,
        folder: str,
        pictures: int | None = None,
        columns: int = 8,
        scale: int | None = None,
        classes: list[str] | None = None,
    ) -> None:
        """`pictures`: 16 of a sheet, 3 of each class in a figure, unless it is said.

        `scale`: how much a sheet's are enlarged; by default until they are easily seen.
        `classes`: those of a figure, by name; by default all.
        """
        if pictures is not None and pictures < 1:
            raise UserError(f"report.grid.pictures must be at least 1, got {pictures}")
        self.folder, self.columns, self.scale = Path(folder), columns, scale
        self.pictures, self.classes = pictures, classes
        self.rows: list[dict[str, Tensor]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be drawn before anything is computed."""
        self.rows = []
        if hasattr(pl_module, "judged") and (why := trainer.datamodule.unlabelled):
            raise UserError(
                f"report=grid shows where latents meet classes: {why}; report=dashboard does "
                f"without"
            )

    def on_predict_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self._collect(trainer, outputs, batch)

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self._collect(trainer, outputs, batch)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write_sheet(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The task's figures, where it has some."""
        draw = next((draw for held, draw in FIGURES.items() if hasattr(pl_module, held)), None)
        if draw is None:
            self._write_sheet(trainer)
        elif trainer.is_global_zero:
            folder = files.unused(self.folder / "grid")
            asked = self.classes, self.pictures or SHOWN
            for name, figure in draw(pl_module, trainer.datamodule, *asked).items():
                self._write(figure, folder / f"{name}.png")

    def _collect(self, trainer: pl.Trainer, outputs: object, batch: object) -> None:
        """Keep what came by until there are enough; a run that makes pictures shows its own."""
        outputs = outputs if isinstance(outputs, dict) else {}
        batch = batch if isinstance(batch, dict) else {}
        images = outputs.get("image", batch.get("image"))
        missing = (self.pictures or ON_SHEET) - len(self.rows)
        if not trainer.is_global_zero or images is None or missing <= 0:
            return
        made = "image" in outputs  # then its mask belongs to it, and nothing was predicted
        seen = {"image": images, "mask": outputs.get("mask") if made else batch.get("mask")}
        seen["prediction"] = None if made else outputs.get("mask")
        kept = {name: maps[:missing].cpu() for name, maps in seen.items() if maps is not None}
        for index in range(len(kept["image"])):
            self.rows.append({name: maps[index] for name, maps in kept.items()})

    def _write_sheet(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or not self.rows:
            return
        facts = getattr(trainer.datamodule, "facts", {})
        stacked = {
            name: torch.stack([row[name] for row in self.rows])
            for name in ("image", "mask", "prediction")
            if all(name in row for row in self.rows)
        }
        sheet = contact_sheet(
            stacked["image"].float(),
            stacked.get("mask"),
            facts.get("palette") or None,
            columns=self.columns,
            scale=self.scale,
            predictions=stacked.get("prediction"),
            class_names=facts.get("class_names") or None,
        )
        self._write(sheet, files.unused(self.folder / "grid.png"))

    def _write(self, figure: Image.Image, path: Path) -> None:
        files.writable_folder(path.parent)
        write_png(figure, path)
        print(f"grid: {path}")


FIGURES: dict[str, Figures] = {"findings": concept_figures}  # by what a task's module holds


def contact_sheet(
    images: Float[Tensor, "n 3 h w"],
    masks: Int[Tensor, "n h w"] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    columns: int = 8,
    scale: int | None = None,
    *,
    predictions: Int[Tensor, "n h w"] | None = None,
    beneath: UInt8[np.ndarray, "n h w 3"] | None = None,
    class_names: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    opacity: float = 1.0,
) -> Image.Image:
    """Pictures in [-1, 1] in rows; beneath each its mask and prediction, below all a legend.

    `beneath`: a last picture under those.
    `opacity` below 1 lets the picture shine through its mask.
    """
    bytes_ = as_bytes(images)
    layers = [bytes_]
    for labels in (masks, predictions):
        if labels is not None:
            colours = colours_of(labels, palette or rainbow(int(labels.max()) + 1))
            layers.append(np.rint(opacity * colours + (1 - opacity) * bytes_).astype(np.uint8))
    layers += [] if beneath is None else [beneath]
    count, height, width = bytes_.shape[:3]
    scale = scale or max(1, round(CELL / max(height, width)))
    columns = max(1, min(columns, count))
    cell = (width * scale, height * scale)
    text = LINE if captions else 0
    step = (cell[0] + GAP, len(layers) * (cell[1] + 2) + text + GAP)
    side = GAP + columns * step[0]
    named = class_names and palette and len(layers) > 1
    legend = draw_legend(class_names, palette, side) if named else None
    tall = GAP + -(-count // columns) * step[1]
    sheet = Image.new("RGB", (side, tall + (legend.height if legend else 0)), PAPER)
    for index in range(count):
        x, y = GAP + index % columns * step[0], GAP + index // columns * step[1]
        for layer in layers:
            picture = Image.fromarray(layer[index])
            sheet.paste(picture.resize(cell, Image.Resampling.NEAREST), (x, y))
            y += cell[1] + 2
        if captions:
            ImageDraw.Draw(sheet).text((x, y), captions[index], INK, font())
    if legend:
        sheet.paste(legend, (0, tall))
    return sheet


def draw_legend(names: Sequence[str], palette: Sequence[Sequence[int]], width: int) -> Image.Image:
    """A patch of colour and a name for every class, in as many lines as it takes."""
    places, x, y = [], GAP, 4
    for name in names:
        step = LINE + wide(name) + 3 * GAP
        if x + step > width and x > GAP:
            x, y = GAP, y + LINE
        places.append((x, y))
        x += step
    legend = Image.new("RGB", (width, y + LINE + 4), PAPER)
    pen = ImageDraw.Draw(legend)
    for (x, y), name, colour in zip(places, names, palette, strict=False):
        pen.rectangle((x, y + 2, x + 14, y + 15), tuple(colour), INK)
        pen.text((x + LINE, y), name, INK, font())
    return legend
