"""`report=grid`: a run's pictures, their masks, and what was found in them, as one PNG."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.concepts.class_figure import concept_figures
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.chosen import among, labels_of
from diffdict.reports.drawing.colours import rainbow
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.subjects import DrawsFromCodes, HasDictionaries, Segments, task_of

ON_SHEET, SHOWN = 16, 3  # pictures of a sheet, and of each class in a figure


class Grid(pl.Callback):
    """`<folder>/grid.png`: the first pictures that a run saw, with what was predicted.

    After a test of dictionaries their figures instead, in a folder: `grid/concepts.png`.
    """

    def __init__(
        self,
        folder: str,
        pictures: int | None = None,
        columns: int = 8,
        scale: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """`pictures`: 16 of a sheet, 3 of each class in a figure, unless it is said.

        `scale`: how much a sheet's are enlarged; by default until they are easily seen.
        `classes`: those of a figure, by name; by default all. On a sheet the others are grey, and
        pictures without one of them, in truth or prediction, are left out.
        """
        if pictures is not None and pictures < 1:
            raise UserError(f"report.grid.pictures must be at least 1, got {pictures}")
        self.folder, self.columns, self.scale = Path(folder), columns, scale
        self.pictures, self.classes = pictures, classes
        self.rows: list[dict[str, Tensor]] = []
        self.only: list[int] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be drawn before anything is computed."""
        self.rows = []
        has_dictionaries = isinstance(pl_module, HasDictionaries)
        if has_dictionaries and (why := trainer.datamodule.unlabelled):
            raise UserError(
                f"report=grid shows where latents meet classes: {why}; report=dashboard does "
                f"without"
            )
        if self.classes is not None:
            class_names = getattr(trainer.datamodule, "facts", {}).get("class_names") or ()
            self.only = labels_of(self.classes, class_names)

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
        """Dictionaries' figures, or the sheet; a segmenter's sheets are drawn beside it."""
        if isinstance(pl_module, DrawsFromCodes):  # they have a sheet of their own
            return
        if not isinstance(pl_module, HasDictionaries):
            self._write_sheet(trainer)
            if trainer.is_global_zero and not self.rows and not isinstance(pl_module, Segments):
                print(f"grid: nothing to draw, task={task_of(type(pl_module))} shows no pictures")
        elif trainer.is_global_zero:
            folder = files.unused(self.folder / "grid")
            options = self.classes, self.pictures or SHOWN
            for name, figure in concept_figures(pl_module, trainer.datamodule, *options).items():
                self._write(figure, folder / f"{name}.png")

    def _collect(self, trainer: pl.Trainer, outputs: object, batch: object) -> None:
        """Keep what came by until there are enough; a run that makes pictures shows its own."""
        outputs = outputs if isinstance(outputs, dict) else {}
        batch = batch if isinstance(batch, dict) else {}
        images = outputs.get("image", batch.get("image"))
        missing = (self.pictures or ON_SHEET) - len(self.rows)
        if not trainer.is_global_zero or images is None or missing <= 0:
            return
        draws = "image" in outputs  # then its mask belongs to it, and nothing was predicted
        layers = {"image": images, "mask": outputs.get("mask") if draws else batch.get("mask")}
        layers["prediction"] = None if draws else outputs.get("mask")
        present = {name: maps for name, maps in layers.items() if maps is not None}
        shown = [index for index in range(len(images)) if self._shows(present, index)]
        for index in shown[:missing]:
            self.rows.append({name: maps[index].cpu() for name, maps in present.items()})

    def _shows(self, maps: dict[str, Tensor], index: int) -> bool:
        """Whether a picture has one of the classes that were asked for."""
        labels = [maps[name][index] for name in ("mask", "prediction") if name in maps]
        return self.only is None or any(among(each, self.only).any() for each in labels)

    def _write_sheet(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or not self.rows:
            return
        facts = getattr(trainer.datamodule, "facts", {})
        names = facts.get("class_names") or ()
        stacked = {
            name: torch.stack([row[name] for row in self.rows])
            for name in ("image", "mask", "prediction")
            if all(name in row for row in self.rows)
        }
        sheet = contact_sheet(
            stacked["image"].float(),
            stacked.get("mask"),
            facts.get("palette") or rainbow(len(names)),
            columns=self.columns,
            scale=self.scale,
            predictions=stacked.get("prediction"),
            class_names=names,
            only=self.only,
        )
        self._write(sheet, files.unused(self.folder / "grid.png"))

    def _write(self, figure: Image.Image, path: Path) -> None:
        files.writable_folder(path.parent)
        write_png(figure, path)
        print(f"grid: {path}")
