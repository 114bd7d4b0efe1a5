"""`task=faithfulness`: whether samples have again what they were drawn from.

Each sample's source is sought among all pictures of a split by the sample's vector (Bordes et al.
2022), and attributes are read off both; of latents that were switched on it is said whether their
own code rises. Samples, sources and pictures are all seen at the size that was drawn.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffdict.conditions.base import MakesVectors, picture_vectors
from diffdict.conditions.latents import check_codes
from diffdict.conditions.sources.rows_file import CONDITIONS, read_rows
from diffdict.data.archives.sampled import RECORD
from diffdict.data.attributes import Attribute
from diffdict.errors import UserError
from diffdict.metrics.samples.kernel_distance import ChosenRows
from diffdict.reports.subjects import DrawnLatents
from diffdict.representations.base import Representation
from diffdict.results.tables import Row
from diffdict.sae.base import Sae
from diffdict.tasks.sampling.attribute_reading import AttributeReading
from diffdict.tasks.sampling.source_figures import SourceFigures, squared_gap, without
from diffdict.tasks.sampling.switched_latents import SwitchedLatents

FEW = 10  # sources, below which figures say little
CROP = 16  # a crop leaves one of so many parts of a side out, on each side
LEARNED, REAL, DRAWN = "learned", "real", "drawn"  # what pictures are for


class Faithfulness(pl.LightningModule):
    """Measures; what it learns are linear readings of attributes, in closed form."""

    def __init__(
        self,
        representation: MakesVectors,
        samples: str,
        real: Mapping,
        sampled: Mapping,
        *,
        readers: Callable[[], Mapping[str, Representation]] | None = None,
        learned: Mapping | None = None,
        attributes: Sequence[Mapping] = (),
        sampled_classes: Sequence[str] = (),
        ridge: float = 1e-2,
    ) -> None:
        """`samples`: a folder of task=samples condition=pictures, or condition=latents.

        `real`, `sampled`, `learned`: what tells the pictures of the split, the samples and those
        that attributes are learned from apart; `sampled_classes` names the samples' masks.
        `readers`: whose vectors attributes are read off, side by side.
        """
        super().__init__()
        self.maker, self.samples, self.real = representation, samples, real
        self.record = check_record(Path(samples))
        self.rows = read_rows(Path(samples))
        if len(self.rows.source) != sampled["pictures"]:
            raise UserError(
                f"{samples}/{CONDITIONS} is of {len(self.rows.source)} samples, the folder holds "
                f"{sampled['pictures']}: draw them anew in another folder"
            )
        self.conditioning = self.record.get("vectors_sha256") == representation.sha256
        self.seen_real, self.seen_samples = (
            ChosenRows(facts["pictures"], facts["pictures"]) for facts in (real, sampled)
        )
        self.knows_real = False  # all of them are looked at
        self.switched, self.reading = None, None
        self.order = [REAL, DRAWN] if learned is None else [LEARNED, REAL, DRAWN]
        if self.rows.strength is not None:
            self.switched = SwitchedLatents(
                representation, self.rows, Path(samples), sampled_classes, sampled["pictures"]
            )
        elif learned is not None:
            self.reading = AttributeReading(
                list(readers().values()) if readers else [representation],
                representation.dim,
                [Attribute(**one) for one in attributes],
                ridge,
                (real["pictures"], sampled["pictures"]),
            )
        self._tables: dict[str, list[Row]] = {}

    def on_test_start(self) -> None:
        """Begins anew, and says what bounds the figures."""
        for metric in (self.seen_real, self.seen_samples):
            metric.reset()
        for part in (self.switched, self.reading):
            if part is not None:
                part.reset()
        sources = len(set(self.rows.source))
        if self.switched is None and sources < FEW:
            warnings.warn(
                f"{self.samples} are of {sources} pictures: figures of fewer than {FEW} say "
                "little, draw with a larger condition.number.",
                stacklevel=2,
            )
        if self.switched is None and self.conditioning:
            warnings.warn(
                f"{self.maker.name} is what the samples were drawn from: it judges itself. "
                "Another representation= is a witness.",
                stacklevel=2,
            )
        vectors_sha256 = self.record.get("vectors_sha256")
        if self.reading is not None and vectors_sha256 in {
            one.sha256 for one in self.reading.readers
        }:
            warnings.warn(
                "Attributes are read off the vectors that the samples were drawn from: it judges "
                "itself. Other model.readers= are witnesses.",
                stacklevel=2,
            )

    def test_step(self, batch: Mapping, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Some pictures to learn from, some of the split, or in the last loader some samples."""
        kind, images = self.order[dataloader_idx], batch["image"]
        if kind == LEARNED and self.reading is None:
            return
        vectors = self._look(self.maker, images)
        if self.reading is not None:
            read = torch.cat([self._look(one, images) for one in self.reading.readers], dim=1)
            self.reading.update(kind, read, vectors, batch)
        if kind == LEARNED:
            return
        (self.seen_samples if kind == DRAWN else self.seen_real).update(vectors, batch["index"])
        if self.switched is not None and kind == DRAWN:
            self.switched.update(batch)

    def _look(self, maker: MakesVectors, images: Float[Tensor, "n 3 _ _"]) -> Tensor:
        """The vectors of these pictures, all numbers."""
        vectors = maker.vectors(at_shown_side(images, maker)).float()
        if not bool(vectors.isfinite().all()):
            raise UserError(
                f"A vector by {maker.name} is no number: check the representation's weights"
            )
        return vectors

    def on_test_epoch_end(self) -> None:
        """What became of the sources, or of the latents."""
        samples, real = self.seen_samples.compute().cpu(), self.seen_real.compute().cpu()
        by: dict[str, object] = {
            "samples": self.samples,
            "representation": self.maker.name,
            "conditioning": self.conditioning,
        }
        if self.switched is not None:
            figures, self._tables = self.switched.tables(samples, real, by)
        else:
            figures = self._of_sources(samples, real, by)
        for name, value in figures.items():
            if value is not None:
                self.log(f"test/{name}", value, rank_zero_only=False, sync_dist=False)

    def _of_sources(
        self, samples: Float[Tensor, "n d"], real: Float[Tensor, "m d"], by: Mapping
    ) -> dict[str, float | None]:
        """Ranks, distances, variance, and what is left of attributes."""
        source = torch.tensor(self.rows.source)
        count = int(source.max()) + 1
        pictures = self.rows.pictures[:count]
        same = self.record.get("pictures") == self.real["fingerprint"]
        sources = real[:count] if same else self._vectors(pictures)
        # sources of another split are put before its pictures
        gallery = real if same else torch.cat([sources, without(real, sources)])
        source_figures = SourceFigures.of(samples, source, sources, gallery)
        if source_figures.share is None:
            warnings.warn(
                "Each picture has one sample, so nothing is said of what varies: condition.each=2 "
                "or more.",
                stacklevel=2,
            )
        figures = {**source_figures.figures, **self._floors(pictures)}
        by = {**by, "sources": count, "gallery": source_figures.gallery}
        names = self.rows.captions
        self._tables = {"sources": source_figures.each_source(samples, source, sources, names)}
        if source_figures.share is not None:
            self._tables["dimensions"] = source_figures.each_dimension()
        if self.reading is not None:
            looked = torch.cat([self._vectors(pictures, one) for one in self.reading.readers], 1)
            more, rows = self.reading.tables(source, looked, same)
            figures |= more
            self._tables["attributes"] = rows
        self._tables = {"faithfulness": [{**by, **figures}], **self._tables}
        return figures

    def _floors(self, pictures: Float[Tensor, "n 3 _ _"]) -> dict[str, float | None]:
        """How far a picture is from itself: cropped, and seen through another noise."""
        vectors = self._vectors(pictures)
        floors = {"distance_crop": squared_gap(self._vectors(cropped(pictures)), vectors)}
        other = self.maker.other_noise() if isinstance(self.maker, Representation) else None
        noise = None if other is None else squared_gap(self._vectors(pictures, other), vectors)
        return {**floors, "distance_noise": noise}

    def _vectors(
        self, pictures: Float[Tensor, "n 3 _ _"], maker: MakesVectors | None = None
    ) -> Float[Tensor, "n d"]:
        maker = maker or self.maker
        return picture_vectors(maker, list(at_shown_side(pictures, maker)), self.device)

    def tables(self) -> dict[str, list[Row]]:
        """All together, and each source, dimension and attribute; or each latent."""
        return self._tables

    def switched_dictionary(self) -> Sae | None:
        """Whose latents were switched on; None of samples of pictures."""
        return None if self.switched is None else check_codes(self.maker).sae

    def drawn_latents(self) -> DrawnLatents:
        """What a page shows of latents that were switched on."""
        return self.switched.drawn(self.seen_real.compute().cpu(), self.maker)


def at_shown_side(
    images: Float[Tensor, "n 3 _ _"], maker: MakesVectors
) -> Float[Tensor, "n 3 side side"]:
    """At the side that a representation is shown."""
    side = maker.image_size
    if side in (None, images.shape[-1]):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def cropped(pictures: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n 3 side side"]:
    """The middle of each, enlarged: a change that leaves the picture what it is."""
    side = pictures.shape[-1]
    edge = max(1, side // CROP)
    inner = pictures[..., edge:-edge, edge:-edge]
    return F.interpolate(inner, size=(side, side), mode="bilinear", align_corners=False)


def check_record(folder: Path) -> dict[str, object]:
    """What made the samples, which are of pictures or of latents."""
    if not (folder / CONDITIONS).is_file() or not (folder / RECORD).is_file():
        raise UserError(
            f"samples={folder} has no {CONDITIONS}, which says what each sample was drawn from: "
            "give a folder of extract.py task=samples condition=pictures"
        )
    record = json.loads((folder / RECORD).read_bytes())
    if record.get("condition") not in ("pictures", "latents"):
        raise UserError(
            f"samples={folder} were drawn with condition={record.get('condition')}, and only "
            "samples of pictures have a source, those of latents a code: condition=pictures, or "
            "condition=latents"
        )
    return record
