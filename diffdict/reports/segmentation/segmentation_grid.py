"""`report=grid` of a segmenter: what it says of every test picture, and where that is wrong."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffdict import files
from diffdict.data.folder import PICTURES
from diffdict.errors import UserError
from diffdict.metrics.segmentation import top_tenth
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.chart import write_chart
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
from diffdict.reports.subjects import SegmentedPicture, Segments
from diffdict.results.tables import as_csv

COLUMNS = ("picture", "truth", "prediction", "error", "uncertainty")
KINDS = {"labels": ".npy", "masks": ".png", "uncertainty": ".png"}  # a folder each
WRONG = (214, 40, 40)


class SegmentationGrid(pl.Callback):
    """After a segmenter's test `<folder>/grid/`; nothing for other tasks.

    Of every test picture, under its own name: `labels/NAME.npy`, `masks/NAME.png` in the classes'
    colours and, where there is one, `uncertainty/NAME.png`; `index.csv` says which is which.
    `pictures-00000.png` and so on are sheets from that number on, and `confusion.png` (and `.svg`)
    is what was taken for what.
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
        if isinstance(pl_module, Segments):
            folder = files.unused(self.parent / "grid") if trainer.is_global_zero else None
            self.folder = trainer.strategy.broadcast(folder)
            facts = trainer.datamodule.facts
            self.names, self.ignored = facts["class_names"], facts["ignore_label"]
            self.palette = facts.get("palette") or rainbow(len(self.names))
            self.only = self.classes and labels_of(self.classes, self.names)
            self.said = trainer.datamodule.picture_names("test")
            self.files = file_names(self.said)

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        """The pictures of a batch."""
        for one in pl_module.segmented(outputs, batch) if self.folder is not None else ():
            name = self.files[one.index]
            paths = {kind: self.folder / kind / f"{name}{end}" for kind, end in KINDS.items()}
            save_prediction(one.labels, one.uncertainty, self.palette, paths)
            shown = among(torch.stack([one.mask, one.labels]), self.only or range(len(self.names)))
            shown = shown.any(0)
            if self.drawn == self.most or not shown.any():
                continue
            image = trainer.datamodule.picture("test", one.index)
            self.first = self.first if self.sheet else f"{one.index:05d}"
            self.sheet.append(self._line(one, image, shown))
            self.drawn += 1
            if len(self.sheet) == self.rows:
                self._turn()

    def _line(
        self,
        one: SegmentedPicture,
        image: Float[Tensor, "3 height width"] | None,
        shown: Bool[Tensor, "height width"],
    ) -> Line:
        """A picture, its truth and prediction, and where they differ among what is shown."""
        mask, labels, both = one.mask, one.labels, torch.stack([one.mask, one.labels])
        counted = shown & (mask != (-1 if self.ignored is None else self.ignored))
        wrong = (labels != mask) & counted
        right = 100 * (1 - float(wrong.sum() / counted.sum().clamp(min=1)))
        what = " of these classes" if self.only else ""
        picture = picture_of(image, labels)
        cells = [
            *(picture, *colours_of(both, muted(self.palette, self.only))),
            tinted(picture, wrong.cpu().numpy(), WRONG),
        ]
        caption = f"{self.said[one.index]}: {right:.1f} %{what} right"
        if one.uncertainty is None:
            return Line(caption, cells)
        doubt = float(top_tenth(one.uncertainty))
        return Line(f"{caption}, uncertainty {doubt:.3f}", [*cells, heat(one.uncertainty)])

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last sheet, and the confusion of all pictures."""
        if self.folder is None:
            return
        self._turn()
        if self.only and trainer.strategy.reduce_boolean_decision(not self.drawn):
            print(f"grid: no test picture shows {' or '.join(self.classes)}")
        if trainer.is_global_zero:
            rows = enumerate(zip(self.said, self.files, strict=True))
            index = [{"index": i, "picture": picture, "file": file} for i, (picture, file) in rows]
            files.write_atomic(self.folder / "index.csv", as_csv(index).encode())
            pixels = pl_module.confusion().pixels.cpu()
            write_chart(draw_confusion(pixels, self.names), self.folder / "confusion.png")
            print(f"grid: {self.folder}")

    def _turn(self) -> None:
        """Writes a sheet and takes an empty one."""
        if self.sheet:
            legend = legend_of(self.names, self.palette, self.only)
            columns = COLUMNS[: len(self.sheet[0].cells)]
            sheet = draw_sheet(columns, self.sheet, *legend)
            write_png(sheet, self.folder / f"pictures-{self.first}.png")
            self.sheet = []


def file_names(pictures: Sequence[str]) -> list[str]:
    """What the files of each picture are called: as its own, below a folder, without its suffix.

    Its number stands for a picture that is no file of its own, or whose name another has too.
    """
    stems = [_stem(picture) for picture in pictures]
    shared = Counter(stems)
    return [
        f"{index:05d}" if stem is None or shared[stem] > 1 else stem
        for index, stem in enumerate(stems)
    ]


def _stem(picture: str) -> str | None:
    """a/b of a/b.png; None of what is no path below a folder."""
    path = PurePosixPath(picture)
    below = path.suffix.lower() in PICTURES and not path.is_absolute() and ".." not in path.parts
    return str(path.with_suffix("")) if below else None
