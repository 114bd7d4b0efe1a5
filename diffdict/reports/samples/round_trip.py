"""What an inversion is worth: its errors as a table, and pictures beside their noise and way back.

Beside the error stand two floors: rounding to 8 bits, which no stored picture escapes, and the
error of a picture from what another one's noise became.
"""

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from diffdict import files
from diffdict.data.base import Pictures
from diffdict.diffusion.chains.inversion import psnr
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.figure import FigureRow, Scale, draw_figure
from diffdict.reports.drawing.overlay import ladder
from diffdict.results.inputs.stored_noise import StoredNoise
from diffdict.results.tables import Cell, as_csv, print_rows

COLUMNS = ("picture", "noise", "back", "difference")
SPREAD = 3  # standard deviations of the noise between grey and black or white


class RoundTripReport(pl.Callback):
    """At the end of task=invert `round_trip.csv` and `round_trip.png` beside the shards."""

    def __init__(self, pictures: int = 8) -> None:
        """`pictures`: the first so many, on the sheet."""
        self.pictures, self.began = pictures, 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on the time is taken."""
        self.began = time.monotonic()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When every shard of every rank is there."""
        trainer.strategy.barrier("noise made")
        took = time.monotonic() - self.began
        whole = all(map(pl_module.done, pl_module.shards.ranges))
        if not trainer.is_global_zero or not whole:  # fast_dev_run, limit_predict_batches
            return
        folder, noise = pl_module.folder, StoredNoise(pl_module.folder)
        rows = picture_rows(noise, pl_module.back)
        files.write_atomic(folder / "round_trip.csv", as_csv(rows).encode())
        print_rows(summary(rows), title="round trip" if pl_module.back else "noise")
        print(spoken_facts(rows, pl_module.steps, pl_module.missing, took))
        paths = [folder / "round_trip.csv"]
        if pl_module.back and self.pictures > 0:
            pictures = trainer.datamodule.pictures
            sheet = round_trip_sheet(noise, pictures, rows[: self.pictures])
            paths.append(write_png(sheet, folder / "round_trip.png"))
        print("\n".join(map(str, [*paths, folder])))


def picture_rows(noise: StoredNoise, back: bool) -> list[dict[str, Cell]]:
    """A row a picture: its name and class, its noise's deviation, its errors where there are."""
    columns = ["index", "name", "deviation"]
    columns += ["label"] if noise.facts.get("classes") is not None else []
    columns += ["rmse", "largest", "rounding", "other"] if back else []
    rows = []
    for shard in noise.shards:
        arrays = noise.read(shard, columns)
        each = [arrays[column].tolist() for column in columns]
        rows += [dict(zip(columns, row, strict=True)) for row in zip(*each, strict=True)]
    for row in rows if back else ():
        row["psnr"] = psnr(row["rmse"])
    return rows


def summary(rows: Sequence[Mapping[str, Cell]]) -> list[dict[str, Cell]]:
    """The error of the round trip over all pictures, and its floors."""
    lines = []
    for column, name in (
        ("rmse", "picture and back"),
        ("rounding", "floor: rounded to 8 bits"),
        ("other", "from another picture's noise"),
    ):
        errors = [row[column] for row in rows if math.isfinite(row.get(column, math.nan))]
        if not errors:
            continue
        line = {"error": name, "RMSE": sum(errors) / len(errors), "worst picture": max(errors)}
        line["PSNR (dB)"] = sum(map(psnr, errors)) / len(errors)
        line["largest"] = max(row["largest"] for row in rows) if column == "rmse" else None
        lines.append(line)
    return lines


def spoken_facts(rows: Sequence[Mapping[str, Cell]], steps: int, made: int, took: float) -> str:
    """How many pictures in what time, and how much like standard normal noise theirs is."""
    deviation = sum(row["deviation"] for row in rows) / len(rows)
    count = (
        f"{made} of {len(rows)} pictures inverted now" if made < len(rows) else f"{made} pictures"
    )
    return (
        f"{count}, {steps} steps each, in {took:.1f} s; errors in [-1, 1]; the noise's deviation "
        f"is {deviation:.3f} (1: standard normal)"
    )


def gain_of(differences: Float[np.ndarray, "n h w"]) -> int:
    """The power of two by which all but a hundredth of the differences fill the scale."""
    high = float(np.quantile(differences, 0.99))
    return 1 if high <= 0 else 2 ** min(12, max(0, math.floor(math.log2(1 / high))))


def round_trip_sheet(
    noise: StoredNoise, pictures: Pictures, rows: Sequence[Mapping[str, Cell]]
) -> Image.Image:
    """The pictures of these rows, each with its noise, what it became, and where that is off."""
    indices = [row["index"] for row in rows]
    originals = torch.stack([pictures[index]["image"] for index in indices])
    back = np.stack([_back(noise, index) for index in indices])
    returned = back.astype(np.float32) / 127.5 - 1
    differences = np.abs(originals.permute(0, 2, 3, 1).numpy() - returned).mean(-1) / 2
    gain = gain_of(differences)
    heat = ladder()[(255 * np.clip(gain * differences, 0, 1)).round().astype(np.uint8)]
    cells = zip(
        as_bytes(originals), as_bytes(noise.noise(indices) / SPREAD), back, heat, strict=True
    )
    figure_rows = [
        FigureRow(
            str(row["name"]).rpartition("/")[2],
            images[3].mean((0, 1)).astype(int).tolist(),
            _words(row),
            [images],
        )
        for row, images in zip(rows, cells, strict=True)
    ]
    facts = noise.facts
    title = (
        f"{facts['backbone']}: pictures of {facts['dataset']} ({facts['split']}), there and back"
    )
    scale = Scale(
        "equal", f"off by {1 / gain:.3g} of the range", f"difference x {gain}, mean of RGB"
    )
    return draw_figure(title, COLUMNS, figure_rows, scale)


def _words(row: Mapping[str, Cell]) -> list[str]:
    """The errors of one picture."""
    words = [f"RMSE {row['rmse']:.4g}, {row['psnr']:.1f} dB", f"largest {row['largest']:.3g}"]
    return words + ([f"class {row['label']}"] if "label" in row else [])


def _back(noise: StoredNoise, index: int) -> UInt8[np.ndarray, "size size 3"]:
    """The picture that its noise became."""
    shard = noise.shard_of(index)
    return noise.read(shard, ["images"])["images"][index - shard.start]
