"""Contact sheets: pictures, their masks and predictions beneath, and what the colours mean."""

from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffdict import files

PAPER, INK, UNKNOWN = (250, 249, 246), (40, 40, 48), (0, 0, 0)  # UNKNOWN: ignored pixels
GAP, LINE = 6, 20  # pixels between the cells; height of a line of text
CELL = 128  # small pictures are enlarged to about this side


class Grid(pl.Callback):
    """`report=grid`: the first pictures that a predict or test run saw, in `<folder>/grid.png`."""

    def __init__(
        self, folder: str, pictures: int = 16, columns: int = 8, scale: int | None = None
    ) -> None:
        """`scale`: how much the pictures are enlarged; by default until they are easily seen."""
        self.folder, self.pictures, self.columns, self.scale = folder, pictures, columns, scale
        self.rows: list[dict[str, Tensor]] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rows = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rows = []

    def on_predict_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self._collect(trainer, outputs, batch)

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self._collect(trainer, outputs, batch)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def _collect(self, trainer: pl.Trainer, outputs: object, batch: object) -> None:
        """Keep what came by until there are enough; a run that makes pictures shows its own."""
        outputs = outputs if isinstance(outputs, dict) else {}
        batch = batch if isinstance(batch, dict) else {}
        images = outputs.get("image", batch.get("image"))
        missing = self.pictures - len(self.rows)
        if not trainer.is_global_zero or images is None or missing <= 0:
            return
        made = "image" in outputs  # then its mask belongs to it, and nothing was predicted
        seen = {"image": images, "mask": outputs.get("mask") if made else batch.get("mask")}
        seen["prediction"] = None if made else outputs.get("mask")
        kept = {name: maps[:missing].cpu() for name, maps in seen.items() if maps is not None}
        for index in range(len(kept["image"])):
            self.rows.append({name: maps[index] for name, maps in kept.items()})

    def _write(self, trainer: pl.Trainer) -> None:
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
        path = files.writable_folder(self.folder) / "grid.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG"))
        print(f"grid: {path}")


def contact_sheet(
    images: Float[Tensor, "n 3 h w"],
    masks: Int[Tensor, "n h w"] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    columns: int = 8,
    scale: int | None = None,
    *,
    predictions: Int[Tensor, "n h w"] | None = None,
    class_names: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    opacity: float = 1.0,
) -> Image.Image:
    """Pictures in [-1, 1] in rows; beneath each its mask and prediction, below all a legend.

    `opacity` below 1 lets the picture shine through its mask.
    """
    bytes_ = _as_bytes(images)
    layers = [bytes_]
    for labels in (masks, predictions):
        if labels is not None:
            colours = _colours(labels, palette or rainbow(int(labels.max()) + 1))
            layers.append(np.rint(opacity * colours + (1 - opacity) * bytes_).astype(np.uint8))
    count, height, width = bytes_.shape[:3]
    scale = scale or max(1, round(CELL / max(height, width)))
    columns = max(1, min(columns, count))
    cell = (width * scale, height * scale)
    text = LINE if captions else 0
    step = (cell[0] + GAP, len(layers) * (cell[1] + 2) + text + GAP)
    side = GAP + columns * step[0]
    named = class_names and palette and len(layers) > 1
    legend = _legend(class_names, palette, side) if named else None
    tall = GAP + -(-count // columns) * step[1]
    sheet = Image.new("RGB", (side, tall + (legend.height if legend else 0)), PAPER)
    for index in range(count):
        x, y = GAP + index % columns * step[0], GAP + index // columns * step[1]
        for layer in layers:
            picture = Image.fromarray(layer[index])
            sheet.paste(picture.resize(cell, Image.Resampling.NEAREST), (x, y))
            y += cell[1] + 2
        if captions:
            ImageDraw.Draw(sheet).text((x, y), captions[index], INK, _font())
    if legend:
        sheet.paste(legend, (0, tall))
    return sheet


def rainbow(classes: int) -> list[tuple[int, int, int]]:
    """Colours for classes that brought none: golden-angle hues, three brightnesses in turn."""
    hsv = [(int(i * 0.618034 * 256) % 256, 170, (235, 175, 120)[i % 3]) for i in range(classes)]
    strip = Image.fromarray(np.array([hsv], dtype=np.uint8).reshape(1, -1, 3), "HSV")
    return [tuple(colour) for colour in np.asarray(strip.convert("RGB"))[0].tolist()]


def _as_bytes(images: Float[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    pixels = (images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _colours(
    labels: Int[Tensor, "n h w"], palette: Sequence[Sequence[int]]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Labels in their colours; those beyond the palette, as ignored ones are, stay black."""
    table = np.array([*palette, UNKNOWN], dtype=np.uint8)
    numbers = labels.cpu().numpy()
    return table[np.where((numbers >= 0) & (numbers < len(palette)), numbers, len(palette))]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=13)


def _legend(names: Sequence[str], palette: Sequence[Sequence[int]], width: int) -> Image.Image:
    """A patch of colour and a name for every class, in as many lines as it takes."""
    font, places, x, y = _font(), [], GAP, 4
    for name in names:
        wide = LINE + round(font.getlength(name)) + 3 * GAP
        if x + wide > width and x > GAP:
            x, y = GAP, y + LINE
        places.append((x, y))
        x += wide
    legend = Image.new("RGB", (width, y + LINE + 4), PAPER)
    pen = ImageDraw.Draw(legend)
    for (x, y), name, colour in zip(places, names, palette, strict=False):
        pen.rectangle((x, y + 2, x + 14, y + 15), tuple(colour), INK)
        pen.text((x + LINE, y), name, INK, font)
    return legend
