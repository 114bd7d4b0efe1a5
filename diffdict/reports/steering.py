"""`report=steering`: concepts off and on beside their controls, on one page, offline."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.concepts.album import encode_picture
from diffdict.reports.concepts.compose import key_of
from diffdict.reports.concepts.page import read_names
from diffdict.reports.concepts.steered import (
    EffectFigures,
    LabelledFile,
    SteeredConcept,
    SteeredLatent,
    SteeredSeed,
    SteeringContent,
    write_steering_page,
)
from diffdict.reports.drawing.colours import rainbow
from diffdict.reports.subjects import (
    HasTables,
    LabelledPictures,
    SteeredDictionary,
    SteeredStrip,
    SteersConcepts,
    require,
)
from diffdict.results.tables import Row


class SteeringPage(pl.Callback):
    """After task=causality `<folder>/steering/index.html`: strips are drawn, then written."""

    def __init__(
        self,
        folder: str,
        names: str | None = None,
        amounts: int = 7,
        windows: int = 3,
        seeds: int = 4,
        farthest: int | float = 6,
        side: int = 128,
        megabytes: int = 30,
    ) -> None:
        """`names`: a file of names that people gave to latents, on this page or a dashboard.

        `amounts` from -`farthest` to `farthest`, in all timesteps and in so many equal `windows`
        of them, of `seeds` pictures that show a class; pictures are left out where the page would
        pass `megabytes`. `side`: of the pictures in the page, at most.
        """
        least = {"amounts": 2, "windows": 1, "seeds": 1, "side": 8, "megabytes": 1}
        counts = {"amounts": amounts, "windows": windows, "seeds": seeds, "side": side}
        for key, value in {**counts, "megabytes": megabytes}.items():
            if value < least[key]:
                raise UserError(f"report.steering.{key} must be at least {least[key]}, got {value}")
        if not farthest > 0 or not math.isfinite(farthest):
            raise UserError(
                f"report.steering.farthest is the largest amount, above 0, got {farthest}: 6"
            )
        self.folder, self.names, self.limit = Path(folder), names, megabytes * 1_000_000
        self.windows, self.seeds, self.side = windows, seeds, side
        steps = range(amounts)
        self.amounts = [round(farthest * (2 * i / (amounts - 1) - 1), 6) for i in steps]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what steers nothing before anything is computed."""
        require(type(pl_module), SteersConcepts, "report=steering", "try report=dashboard")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Names of another dictionary are refused as soon as the weights are known."""
        self._names(pl_module.steered())

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first rank draws the strips, and writes."""
        if not trainer.is_global_zero:
            return
        subject = pl_module.steered()
        windows = pl_module.windows(self.windows)
        rows = pl_module.tables()["effects"] if isinstance(pl_module, HasTables) else []
        strips = pl_module.strips(self.amounts, windows, self.seeds)
        content = SteeringContent(
            title=f"Concepts of {subject.facts['backbone']}, off and on",
            key=key_of(subject.sae),
            facts=subject.facts,
            amounts=self.amounts,
            windows=["all" if each is None else f"{each[0]} to {each[1]}" for each in windows],
            amount=subject.amount,
            concepts=[self._concept(strip, subject, rows) for strip in strips],
        )
        path = files.unused(self.folder / "steering") / "index.html"
        page = write_steering_page(content, path, self._names(subject), self.limit)
        print(f"steering: {page.path} ({files.human_bytes(page.bytes)})")

    def _names(self, subject: SteeredDictionary) -> Mapping[int, str]:
        """What people called latents."""
        if self.names is None:
            return {}
        key = key_of(subject.sae)
        return read_names(self.names, key)[key]

    def _concept(
        self, strip: SteeredStrip, subject: SteeredDictionary, rows: Sequence[Row]
    ) -> SteeredConcept:
        """One class: its figures of the first amount and window, and its pictures as files."""
        label = list(subject.class_names).index(strip.concept)
        palette = subject.palette or rainbow(len(subject.class_names))
        off = self._files(strip.off, palette)
        on = [[self._files(one, palette) for one in row] for row in strip.on]
        seeds = [
            SteeredSeed(f"picture {index}", off[place], [[one[place] for one in row] for row in on])
            for place, index in enumerate(strip.indices)
        ]
        latents = [
            self._latent(number, changed, strip.off, label, subject, palette)
            for number, changed in zip(strip.latents, strip.singly, strict=True)
        ]
        effects = measured_effects(rows, strip.concept, subject.amount)
        return SteeredConcept(strip.concept, palette[label], effects, seeds, latents)

    def _latent(
        self,
        number: int,
        on: LabelledPictures,
        off: LabelledPictures,
        label: int,
        subject: SteeredDictionary,
        palette: Sequence[Sequence[int]],
    ) -> SteeredLatent:
        """One latent alone: what it leaves of the class in these pictures."""
        density = None if subject.density is None else float(subject.density[number])
        kept = rms = None
        if len(on.images):
            region = off.labels == label
            shares = ((on.labels == label) & region).sum((1, 2)) / region.sum((1, 2)).clamp(min=1)
            kept = float(shares.mean())
            rms = float((on.images - off.images).square().mean().sqrt())
        return SteeredLatent(number, density, kept, rms, self._files(on, palette))

    def _files(
        self, pictures: LabelledPictures, palette: Sequence[Sequence[int]]
    ) -> list[LabelledFile]:
        """Small files of pictures and labels."""
        return [
            LabelledFile(
                encode_picture(image, None, palette, self.side), labels_file(labels, palette)
            )
            for image, labels in zip(
                pictures.images, pictures.labels.numpy().astype(np.uint8), strict=True
            )
        ]


def labels_file(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> bytes:
    """Labels as a PNG of the classes' colours."""
    image, stream = Image.fromarray(labels, "P"), io.BytesIO()
    image.putpalette([part for colour in palette for part in colour])
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def measured_effects(rows: Sequence[Row], concept: str, amount: float) -> list[EffectFigures]:
    """The class's rows of the table, of the first judge, amount and window."""
    class_rows = [row for row in rows if row["class"] == concept and row.get("judge", 1) == 1]
    class_rows = [row for row in class_rows if row["amount"] == amount]
    first = {row["edit"]: row for row in reversed(class_rows)}
    effects = []
    for row in (row for row in class_rows if first[row["edit"]] is row):
        strength = {"latents": row["amount"], "others": row["amount"]}
        strength["others_equal"] = row.get("amount_equal")
        figures = (row[key] for key in ("kept", "error", "area", "outside", "rms", "became"))
        edit = str(row["edit"])
        effects.append(EffectFigures(edit, strength.get(edit), *figures, row.get("p")))
    return effects
