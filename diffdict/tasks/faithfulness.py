"""`task=faithfulness`: whether samples of a picture's vector have that vector again.

Each sample's source is sought among all pictures of a split by the sample's vector (Bordes et al.
2022). Samples, sources and pictures are all seen at the size that was drawn.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.conditions.base import MakesVectors, picture_vectors
from diffdict.conditions.rows_file import CONDITIONS, read_rows
from diffdict.data.sampled import RECORD
from diffdict.errors import UserError
from diffdict.metrics.kernel_distance import ChosenRows
from diffdict.metrics.retrieval import rank_figures, ranks
from diffdict.metrics.variance_share import VarianceShare, variance_share

FEW = 10  # sources, below which figures say little
SAME = 1e-5  # of the length of a vector: nearer ones are of one picture
CROP = 16  # a crop leaves one of so many parts of a side out, on each side


class Faithfulness(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self, representation: MakesVectors, samples: str, real: Mapping, sampled: Mapping
    ) -> None:
        """`samples`: a folder of task=samples condition=pictures.

        `real`, `sampled`: what tells the pictures of the split and the samples apart.
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
        self._tables: dict[str, list[dict[str, str | int | float | bool | None]]] = {}

    def on_test_start(self) -> None:
        """Begins anew, and says what bounds the figures."""
        for metric in (self.seen_real, self.seen_samples):
            metric.reset()
        sources = len(set(self.rows.source))
        if sources < FEW:
            warnings.warn(
                f"{self.samples} are of {sources} pictures: figures of fewer than {FEW} say "
                "little, draw with a larger condition.number.",
                stacklevel=2,
            )
        if self.conditioning:
            warnings.warn(
                f"{self.maker.name} is what the samples were drawn from: it judges itself. "
                "Another representation= is a witness.",
                stacklevel=2,
            )

    def test_step(self, batch: Mapping, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Some pictures of the split, or in the last loader some samples."""
        metric = self.seen_samples if dataloader_idx else self.seen_real
        vectors = self.maker.vectors(self._shown(batch["image"])).float()
        if not bool(vectors.isfinite().all()):
            raise UserError(
                f"A vector by {self.maker.name} is no number: check the representation's weights"
            )
        metric.update(vectors, batch["index"])

    def _shown(self, images: Float[Tensor, "n 3 _ _"]) -> Float[Tensor, "n 3 side side"]:
        """At the side that the representation is shown."""
        side = self.maker.image_size
        if side in (None, images.shape[-1]):
            return images
        return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)

    def on_test_epoch_end(self) -> None:
        """Ranks, distances and the share of variance."""
        drawn, real = self.seen_samples.compute().cpu(), self.seen_real.compute().cpu()
        source = torch.tensor(self.rows.source)
        count = int(source.max()) + 1
        pictures = self.rows.pictures[:count]
        gallery = real
        if self.record.get("pictures") == self.real["fingerprint"]:
            sources = real[:count]
        else:  # they are put before the pictures of the split
            sources = self._vectors(pictures)
            gallery = torch.cat([sources, without(real, sources)])
        places = ranks(gallery, drawn, source)
        share = variance_share(drawn, source)
        if share is None:
            warnings.warn(
                "Each picture has one sample, so nothing is said of what varies: condition.each=2 "
                "or more.",
                stacklevel=2,
            )
        cropped = self._vectors(self._cropped(pictures))
        crop = (cropped - self._vectors(pictures)).double().square().sum(1).mean()
        figures = {
            **rank_figures(places)._asdict(),
            "chance_rank": (len(gallery) + 1) / 2,
            **distances(drawn, sources, source),
            "distance_crop": float(crop),
            "variance_kept": None if share is None else share.whole,
        }
        for name, value in figures.items():
            if value is not None:
                self.log(f"test/{name}", value, rank_zero_only=False, sync_dist=False)
        self._tables = self._made_tables(figures, drawn, sources, places, share, len(gallery))

    def _vectors(self, pictures: Float[Tensor, "n 3 _ _"]) -> Float[Tensor, "n d"]:
        return picture_vectors(self.maker, list(self._shown(pictures)), self.device)

    def _cropped(self, pictures: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n 3 side side"]:
        """The middle of each, enlarged: a change that leaves the picture what it is."""
        side = pictures.shape[-1]
        edge = max(1, side // CROP)
        inner = pictures[..., edge:-edge, edge:-edge]
        return F.interpolate(inner, size=(side, side), mode="bilinear", align_corners=False)

    def _made_tables(
        self,
        figures: Mapping[str, float | None],
        drawn: Float[Tensor, "n d"],
        sources: Float[Tensor, "sources d"],
        places: Int[Tensor, " n"],
        share: VarianceShare | None,
        gallery: int,
    ) -> dict[str, list[dict[str, str | int | float | bool | None]]]:
        source = torch.tensor(self.rows.source)
        by = {
            "samples": self.samples,
            "representation": self.maker.name,
            "conditioning": self.conditioning,
            "sources": len(sources),
            "gallery": gallery,
        }
        each = []
        for number in source.unique().tolist():
            own = (source == number).nonzero()[:, 0]
            apart = distances(drawn[own], sources, source[own])
            name = self.rows.captions[int(own[0])]
            each.append({"picture": name, **rank_figures(places[own])._asdict(), **apart})
        tables = {"faithfulness": [{**by, **figures}], "sources": each}
        if share is not None:
            tables["dimensions"] = [
                {"dimension": place, "variance_kept": None if value != value else value}
                for place, value in enumerate(share.each.tolist())
            ]
        return tables

    def tables(self) -> dict[str, list[dict[str, str | int | float | bool | None]]]:
        """All together, each source, and each dimension."""
        return self._tables


def check_record(folder: Path) -> dict[str, object]:
    """What made the samples, which are of pictures."""
    if not (folder / CONDITIONS).is_file() or not (folder / RECORD).is_file():
        raise UserError(
            f"samples={folder} has no {CONDITIONS}, which says what each sample was drawn from: "
            "give a folder of extract.py task=samples condition=pictures"
        )
    record = json.loads((folder / RECORD).read_bytes())
    if record.get("condition") != "pictures":
        raise UserError(
            f"samples={folder} were drawn with condition={record.get('condition')}, and only "
            "samples of pictures have a source: condition=pictures"
        )
    return record


def distances(
    drawn: Float[Tensor, "n d"],
    sources: Float[Tensor, "sources d"],
    source: Int[Tensor, " n"] | Sequence[int],
) -> dict[str, float | None]:
    """Mean squared L2 and cosine to the own source, and to the others; None: there are none."""
    drawn, sources = drawn.double(), sources.double()
    own = F.one_hot(torch.as_tensor(source), len(sources)).bool()
    squared = torch.cdist(drawn, sources, compute_mode="donot_use_mm_for_euclid_dist").square()
    cosine = F.normalize(drawn, dim=1) @ F.normalize(sources, dim=1).T
    alone = len(sources) == 1
    return {
        "distance_own": float(squared[own].mean()),
        "distance_other": None if alone else float(squared[~own].mean()),
        "cosine_own": float(cosine[own].mean()),
        "cosine_other": None if alone else float(cosine[~own].mean()),
    }


def without(
    vectors: Float[Tensor, "n d"], sources: Float[Tensor, "sources d"]
) -> Float[Tensor, "left d"]:
    """Those that are no source's own; of one picture they differ by rounding alone."""
    apart = torch.cdist(
        vectors.double(), sources.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    limit = SAME * sources.double().square().sum(1).mean().sqrt()
    return vectors[(apart > limit).all(1)]
