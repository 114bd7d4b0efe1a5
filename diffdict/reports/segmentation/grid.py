"""`report=grid` of a segmenter: what it says of every test picture, and where that is wrong."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffdict import files
from diffdict.errors import UserError
from diffdict.metrics.segmentation import top_tenth
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.chosen import among, labels_of, legend_of, muted
from diffdict.reports.drawing.colours import colours_of, rainbow
from diffdict.reports.drawing.overlay import tinted
from diffdict.reports.segmentation.confusion import draw_confusion
from diffdict.reports.segmentation.sheet import (
    Line,
    draw_sheet,
    heat,
    picture_of,
    save_prediction,
)

COLUMNS = ("picture", "truth", "prediction", "error", "uncertainty")
KINDS = {"labels": ".npy", "masks": ".png", "uncertainty": ".png"}  # a folder each
WRONG = (214, 40, 40)


class SegmentationGrid(pl.Callback):
    """After a segmenter's test `<folder>/grid/`; nothing for other tasks.

    Of every test picture, by its number: `labels/00000.npy`, `masks/00000.png` in the classes'
    colours and `uncertainty/00000.png`; `pictures-00000.png` and so on are sheets from that number
    on; and `confusion.png` is what was taken for what.
    """

    def __init__(
        self,
        folder: str,
        rows: int = 8,
        pictures: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """`rows`: pictures on a sheet; `pictures`: on all of a process's, the first so many.

        `classes`: on sheets the others are grey and not judged, and pictures without one of these,
        in truth or prediction, are left out.
        """
        if rows < 1:
            raise UserError(f"report.segmentation.rows is 1 or more, got {rows}: 8 are usual")
        self.parent, self.rows = Path(folder), rows
        self.most, self.classes = pictures, classes
        self.folder: Path | None = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One folder for all ranks, which nobody has written into."""
        self.folder, self.sheet, self.drawn = None, [], 0
        if hasattr(pl_module, "vote"):
            folder = files.unused(self.parent / "grid") if trainer.is_global_zero else None
            self.folder = trainer.strategy.broadcast(folder)
            facts = trainer.datamodule.facts
            self.names, self.ignored = facts["class_names"], facts["ignore_label"]
            self.palette = facts.get("palette") or rainbow(len(self.names))
            self.only = self.classes and labels_of(self.classes, self.names)

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        """One picture."""
        if self.folder is None:
            return
        labels, name = pl_module.labels(outputs), f"{batch.index:05d}"
        paths = {kind: self.folder / kind / f"{name}{end}" for kind, end in KINDS.items()}
        save_prediction(labels, outputs.uncertainty, self.palette, paths)
        both = torch.stack([batch.mask, labels])
        shown = among(both, self.only or range(len(self.names))).any(0)
        if self.drawn == self.most or not shown.any():
            return
        said = trainer.datamodule.picture_name("test", batch.index)
        image = trainer.datamodule.picture("test", batch.index)
        self.first = self.first if self.sheet else name
        self.sheet.append(self._line(said, image, both, shown, outputs.uncertainty))
        self.drawn += 1
        if len(self.sheet) == self.rows:
            self._turn()

    def _line(
        self,
        name: str,
        image: Float[Tensor, "3 height width"] | None,
        both: Int64[Tensor, "2 height width"],
        shown: Bool[Tensor, "height width"],
        uncertainty: Float[Tensor, "height width"],
    ) -> Line:
        """A picture, its truth and prediction, and where they differ among what is shown."""
        mask, labels = both
        counted = shown & (mask != (-1 if self.ignored is None else self.ignored))
        wrong = (labels != mask) & counted
        right = 100 * (1 - float(wrong.sum() / counted.sum().clamp(min=1)))
        what = " of these classes" if self.only else ""
        doubt = float(top_tenth(uncertainty))
        picture = picture_of(image, labels)
        cells = [
            *(picture, *colours_of(both, muted(self.palette, self.only))),
            tinted(picture, wrong.cpu().numpy(), WRONG),
            heat(uncertainty),
        ]
        return Line(f"{name}: {right:.1f} %{what} right, uncertainty {doubt:.3f}", cells)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last sheet, and the confusion of all pictures."""
        if self.folder is None:
            return
        self._turn()
        if self.only and trainer.strategy.reduce_boolean_decision(not self.drawn):
            print(f"grid: no test picture shows {' or '.join(self.classes)}")
        if trainer.is_global_zero:
            pixels = pl_module.found[pl_module.vote].pixels.cpu()
            write_png(draw_confusion(pixels, self.names), self.folder / "confusion.png")
            print(f"grid: {self.folder}")

    def _turn(self) -> None:
        """Writes a sheet and takes an empty one."""
        if self.sheet:
            legend = legend_of(self.names, self.palette, self.only)
            sheet = draw_sheet(COLUMNS, self.sheet, *legend)
            write_png(sheet, self.folder / f"pictures-{self.first}.png")
            self.sheet = []
