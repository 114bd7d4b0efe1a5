"""What a labelled set that was drawn is worth: its classes beside real ones, and its doubts."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, Integer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import Dataset

from diffdict import files
from diffdict.data.npz import NpzDataset
from diffdict.data.pictures import palette
from diffdict.errors import UserError
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.drawing.overlay import overlay
from diffdict.results.tables import as_csv

SHOWN = 8  # of the most and of the least certain samples


class LabelCounts(NamedTuple):
    """How often each class is there."""

    pixels: Int64[np.ndarray, " classes"]
    pictures: Int64[np.ndarray, " classes"]  # that hold it
    seen: int  # all pictures

    @property
    def shares(self) -> Float[np.ndarray, " classes"]:
        """Of all labelled pixels."""
        return self.pixels / max(1, self.pixels.sum())


class LabelReport(pl.Callback):
    """At the end of labelled sampling: labels.csv, samples.csv and labels.png beside the shards."""

    def __init__(self, dataset: Callable[..., Dataset]) -> None:
        """The real set whose classes these are: it is compared with, where it lies here."""
        self.dataset, self.known = dataset, None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses a labeller of other classes before anything is drawn."""
        if pl_module.labeller is None:
            return
        try:
            self.known = self.dataset(split="train")
            name, theirs = self.known.name, self.known.class_names
        except UserError as absent:  # the pictures stayed on another machine
            print(f"No real pictures to compare with: {absent}")
            options = getattr(self.dataset, "keywords", {})
            name, theirs = options.get("name"), options.get("class_names")
        ours = pl_module.class_names
        if theirs is not None and list(theirs) != ours:
            raise UserError(
                f"The labeller knows {len(ours)} classes ({', '.join(ours[:3])} …), "
                f"{name} has {len(theirs)} ({', '.join(theirs[:3]) or 'no masks'} …): "
                "dataset=… names the set that it learned from"
            )

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When every shard of every rank is there."""
        trainer.strategy.barrier("samples labelled")
        whole = all(pl_module.done(samples) for samples in pl_module.shards.ranges)
        if pl_module.labeller is None or not whole or not trainer.is_global_zero:
            return
        folder = pl_module.folder
        dataset = NpzDataset("samples", str(folder), "train", image_size=None)
        theirs = None if self.known is None else count_training_labels(self.known)
        rows = label_rows(dataset.class_names, count_samples(dataset), theirs)
        files.write_atomic(folder / "labels.csv", as_csv(rows).encode())
        samples = as_csv(sample_rows(dataset, pl_module.seed))
        files.write_atomic(folder / "samples.csv", samples.encode())
        sheet = certainty_sheet(dataset, pl_module.labeller, pl_module.device)
        path = folder / "labels.png"
        files.write_atomic(path, lambda stream: sheet.save(stream, format="PNG", optimize=True))
        _say(rows, dataset.uncertainty, folder)


def count(
    masks: Iterable[Integer[np.ndarray, "h w"]], classes: int, ignored: int | None
) -> LabelCounts:
    """Pixels and pictures of every class."""
    pixels, pictures, number = np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0
    for mask in masks:
        labels = mask[mask != ignored] if ignored is not None else mask
        counts = np.bincount(labels.ravel(), minlength=classes)
        pixels, pictures, number = pixels + counts, pictures + (counts > 0), number + 1
    return LabelCounts(pixels, pictures, number)


def count_samples(made: NpzDataset) -> LabelCounts:
    """Of the samples."""
    masks = (arrays.labels[row] for arrays in made.files for row in range(arrays.images.shape[0]))
    shown = track(masks, "Counting labels", len(made), disable=len(made) < 2000)
    return count(shown, made.num_classes, None)


def count_training_labels(known: Dataset) -> LabelCounts:
    """Of the training pictures."""
    masks = (known[index]["mask"].numpy() for index in range(len(known)))
    return count(masks, known.num_classes, known.ignore_label)


def label_rows(
    names: list[str], ours: LabelCounts, theirs: LabelCounts | None
) -> list[dict[str, str | float]]:
    """A row a class: its share of the pixels and of the pictures, drawn and real."""
    rows = []
    for label, name in enumerate(names):
        row = {"class": name, "pixels": float(ours.shares[label])}
        row["pictures"] = float(ours.pictures[label] / max(1, ours.seen))
        if theirs is not None:
            row["real_pixels"] = float(theirs.shares[label])
            row["real_pictures"] = float(theirs.pictures[label] / max(1, theirs.seen))
        rows.append(row)
    return rows


def sample_rows(made: NpzDataset, seed: int) -> list[dict[str, str | int | float]]:
    """A row a sample: what made it, where it lies, how uncertain its labels are."""
    places = [
        (arrays.path.name, row) for arrays in made.files for row in range(arrays.images.shape[0])
    ]
    return [
        {"sample": index, "seed": seed, "file": file, "row": row, "uncertainty": float(doubt)}
        for index, ((file, row), doubt) in enumerate(zip(places, made.uncertainty, strict=True))
    ]


def certainty_sheet(made: NpzDataset, labeller: Callable, device: torch.device) -> Image.Image:
    """The most certain samples, below them the least: picture, labels, and where doubts are."""
    order = np.argsort(made.uncertainty, kind="stable")
    shown = min(SHOWN, len(order))
    chosen = np.concatenate([order[:shown], order[::-1][:shown]]).tolist()
    images = torch.stack([made[index]["image"] for index in chosen])
    labels = labeller(images.to(device), chosen)
    doubt = labels.doubt.cpu().numpy()
    doubt = doubt / max(float(doubt.max()), 1e-12)
    heat = [overlay(*pair) for pair in zip(as_bytes(images), doubt, strict=True)]
    return contact_sheet(
        images,
        labels.masks.cpu(),
        palette(made.num_classes),
        columns=shown,
        beneath=np.stack(heat),
        class_names=made.class_names,
        captions=[f"{index}: {made.uncertainty[index]:.3g}" for index in chosen],
    )


def _say(rows: list[dict], unsure: Float[np.ndarray, " samples"], folder: Path) -> None:
    """The classes as a table, how uncertain their labels are, and where all is written."""
    table = Table(*(name.replace("_", " ") for name in rows[0]), box=None, title="labels")
    for row in rows:
        table.add_row(*(f"{x:.3%}" if isinstance(x, float) else x for x in row.values()))
    low, middle, high = np.quantile(unsure, (0.1, 0.5, 0.9))
    doubts = f"mean {unsure.mean():.4g}, a tenth below {low:.4g}, half below {middle:.4g}, "
    console = Console(soft_wrap=True)
    console.print(table)
    if "real_pixels" in rows[0]:
        apart = sum(abs(row["pixels"] - row["real_pixels"]) for row in rows) / 2
        console.print(
            f"{apart:.1%} of the pixels would have to change class to be as in the real ones"
        )
    console.print(f"uncertainty: {doubts}nine tenths below {high:.4g}")
    console.print(f"{folder}: labels.csv, samples.csv, labels.png")
