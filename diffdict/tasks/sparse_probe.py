"""`task=sparse_probe`: how well a class is told by 1, 2, 4 … latents, beside as many channels.

Each class's features are chosen one after the other in closed form on labelled training pictures;
pictures held out choose the threshold of its score, and the test pictures measure. Channels,
principal components and random directions of the same features, as many as there are latents, are
read from the sums of the channels: no pass of their own.
"""

from collections.abc import Iterator, Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from diffdict.bilinear.maps import NativeMaps
from diffdict.errors import UserError
from diffdict.features.probes import MOST_LATENTS, pixel_gram
from diffdict.features.whole_pictures import LabelledPicture
from diffdict.metrics.concepts.assignment import random_directions
from diffdict.metrics.features.forward_selection import FewFeatures, select_forward
from diffdict.metrics.features.score_overlap import ScoreOverlap, threshold_of
from diffdict.metrics.probes import ProbeSums, Sums
from diffdict.results.tables import Row
from diffdict.sae.card import check_tokens, in_training_order, read_dictionary

FIT, CHOOSE, TEST = range(3)  # the loaders of pictures
LATENTS, CHANNELS, COMPONENTS, RANDOM = "latents", "channels", "pca", "random"
UNLABELLED = -1


class SparseProbe(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        dictionary: str,
        num_classes: int,
        *,
        name: str | None = None,
        sizes: Sequence[int] = (1, 2, 4, 8, 16),
        class_names: Sequence[str] = (),
        ignore_label: int | None = None,
        normalise: str = "none",
        drop_channels: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        """`sizes`: so many features tell a class; `seed`: of the random directions.

        `normalise` and `drop_channels`: what is done to the tokens that come.
        """
        super().__init__()
        sae, card = read_dictionary(dictionary, name)
        treatment = {"normalise": normalise, "drop_channels": list(drop_channels)}
        check_tokens(card, treatment, f"dictionary={dictionary}")
        if sae.latents > MOST_LATENTS:
            raise UserError(
                f"dictionary={dictionary} has {sae.latents} latents, and task=sparse_probe adds up "
                f"every pair of them, of {MOST_LATENTS} at most: take a smaller dictionary"
            )
        self.sizes = _checked_sizes(sizes, sae.d_in)
        self.sae = in_training_order(sae, card).eval().requires_grad_(False)
        self.classes, self.ignore_label, self.seed = num_classes, ignore_label, seed
        self.class_names = list(class_names) or list(map(str, range(num_classes)))
        widths = {LATENTS: sae.latents, CHANNELS: sae.d_in}
        sums = {source: ProbeSums(width, num_classes) for source, width in widths.items()}
        self.sums = nn.ModuleDict(sums)
        self.sources = (LATENTS, CHANNELS, COMPONENTS, RANDOM)
        overlaps = (ScoreOverlap(len(self.sizes), num_classes) for _ in 2 * self.sources)
        self.overlaps = nn.ModuleList(overlaps)  # of the pictures that choose, then of the test
        self.directions: dict[str, Tensor] = {}
        self.chosen: dict[str, FewFeatures] = {}
        self.rows: list[Row] = []

    def on_test_start(self) -> None:
        """Begins anew."""
        for metric in (*self.sums.values(), *self.overlaps):
            metric.reset()
        self.chosen, self.rows = {}, []

    @torch.no_grad()
    def test_step(
        self, picture: LabelledPicture, batch_idx: int, dataloader_idx: int = FIT
    ) -> None:
        """One picture, for what its loader's pictures are for."""
        grid, tokens = _single_grid(picture.maps, self.sae.d_in)
        values = {LATENTS: self.sae.encode(tokens), CHANNELS: tokens}
        if dataloader_idx == FIT:
            gram = pixel_gram(picture.mask, grid, self.classes, self._ignored)
            for source, metric in self.sums.items():
                metric.update(values[source], *gram)
            return
        if not self.chosen:
            self._choose_features()
        labels = picture.mask.flatten()
        labelled = labels != self._ignored
        truth = F.one_hot(labels[labelled], self.classes).T.bool()
        for source, metric in zip(self.sources, self._overlaps(dataloader_idx), strict=True):
            features = values.get(source)
            if features is None:
                features = tokens @ self.directions[source].T
            scores = self.chosen[source].scores(features).flatten(0, 1).unflatten(-1, grid)
            upsampled = F.interpolate(scores[None], picture.mask.shape, mode="bilinear")[0]
            pixels = upsampled.flatten(1)[:, labelled]
            metric.update(pixels.unflatten(0, (-1, self.classes)), truth)

    @property
    def _ignored(self) -> int:
        return UNLABELLED if self.ignore_label is None else self.ignore_label

    def _overlaps(self, loader: int) -> nn.ModuleList:
        number = len(self.sources)
        return self.overlaps[:number] if loader == CHOOSE else self.overlaps[number:]

    def _choose_features(self) -> None:
        """Each class's features of every source, from the sums of all ranks."""
        latents, channels = (metric.compute() for metric in self.sums.values())
        if not channels.cross[-1].sum():
            raise UserError("No labelled pixel was seen: task=sparse_probe needs masks")
        random = random_directions(self.sae.latents, self.sae.d_in, self.seed, self.device)
        self.directions = {COMPONENTS: _components(channels), RANDOM: random}
        turned = {source: _project(channels, rows) for source, rows in self.directions.items()}
        sums = {LATENTS: latents, CHANNELS: channels, **turned}
        self.chosen = {source: select_forward(one, self.sizes) for source, one in sums.items()}

    def on_test_epoch_end(self) -> None:
        """Thresholds of the pictures held out, and what they are worth on the test pictures."""
        held_out, test = self._overlaps(CHOOSE), self._overlaps(TEST)
        for source, choose, measure in zip(self.sources, held_out, test, strict=True):
            before, after = choose.compute(), measure.compute()
            best = before.nan_to_num(-1).argmax(-1, keepdim=True)
            ious = after.gather(-1, best)[..., 0]
            held = before.gather(-1, best)[..., 0]
            for place, size in enumerate(self.sizes):
                key = f"test/{source}/k{size:02d}/iou"
                counted = ious[place][~(ious[place].isnan() | held[place].isnan())]
                self.log(key, counted.mean())
                self.rows += list(self._class_rows(source, place, best, held, ious))

    def _class_rows(
        self, source: str, place: int, best: Tensor, held: Tensor, ious: Tensor
    ) -> Iterator[Row]:
        size, features = self.sizes[place], self.chosen[source].features
        for label, name in enumerate(self.class_names):
            absent = bool(ious[place, label].isnan() or held[place, label].isnan())
            yield {
                "class": name,
                "source": source,
                "k": size,
                "features": " ".join(map(str, features[label, :size].tolist())),
                "threshold": threshold_of(int(best[place, label])),
                "val_iou": None if absent else float(held[place, label]),
                "iou": None if absent else float(ious[place, label]),
            }

    def tables(self) -> dict[str, list[Row]]:
        """Every class by every source and number of features; above them the means."""
        means = []
        for size in self.sizes:
            row: Row = {"k": size}
            for source in self.sources:
                ious = [
                    one["iou"]
                    for one in self.rows
                    if (one["source"], one["k"]) == (source, size) and one["iou"] is not None
                ]
                row |= {source: sum(ious) / len(ious) if ious else None}
            means.append(row)
        return {"sparse_probe": means, "sparse_probe_classes": self.rows}


def _checked_sizes(sizes: Sequence[int], width: int) -> list[int]:
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] > width:
        raise UserError(
            f"model.sizes rise from at least 1 to at most the {width} channels that there are, got "
            f"{list(sizes)}: model.sizes=[1,2,4]"
        )
    return list(sizes)


def _single_grid(
    maps: NativeMaps, width: int
) -> tuple[tuple[int, int], Float[Tensor, "tokens channels"]]:
    """The tokens of one picture, whose maps are all of one size."""
    if len(maps.groups) > 1:
        grids = " and ".join(f"{rows} × {columns}" for rows, columns in maps.groups)
        raise UserError(
            f"task=sparse_probe reads tokens of one grid, these maps have {grids}: take blocks of "
            "one size, block=3"
        )
    ((grid, tokens),) = maps.groups.items()
    if tokens.shape[2] != width:
        raise UserError(
            f"The dictionary takes tokens of width {width}, these maps make tokens of width "
            f"{tokens.shape[2]}: name the timestep and block that it was learned on, of stacked "
            "ones a single one, as timestep=50"
        )
    return grid, tokens[0].float()


def _components(sums: Sums) -> Float[Tensor, "channels channels"]:
    """The principal components of the features, the largest first."""
    mean = sums.second[-1, :-1] / sums.second[-1, -1]
    covariance = sums.second[:-1, :-1] / sums.second[-1, -1] - mean[:, None] * mean
    return torch.linalg.eigh(covariance).eigenvectors.T.flip(0).float()


def _project(sums: Sums, rows: Float[Tensor, "directions channels"]) -> Sums:
    """The sums of features' products with these directions."""
    wide = F.pad(rows.double(), (0, 1, 0, 1))
    wide[-1, -1] = 1
    second: Float64[Tensor, "_ _"] = wide @ sums.second @ wide.T
    return Sums(second, wide @ sums.cross)
