"""`report=grid` of a segmenter: what it says of every test picture, and where that is wrong."""

from pathlib import Path

import pytorch_lightning as pl
import torch

from diffdict import files
from diffdict.errors import UserError
from diffdict.metrics.segmentation import top_tenth
from diffdict.reports.drawing.canvas import write_png
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

    def __init__(self, folder: str, rows: int = 8) -> None:
        """`rows`: pictures on a sheet."""
        if rows < 1:
            raise UserError(f"report.segmentation.rows is 1 or more, got {rows}: 8 are usual")
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
