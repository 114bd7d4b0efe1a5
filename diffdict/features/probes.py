"""Labelled pictures in the order that probes need: to fit on, to choose by, to be tested on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffdict.bilinear.neighbours import find_corners
from diffdict.data.attributes import asked_columns, asked_facts, check_same_attributes
from diffdict.errors import UserError, at_least
from diffdict.features.codes.code_parts import code_parts
from diffdict.features.codes.pooled_codes import POOLED, code_streams
from diffdict.features.pixels import PixelDataModule
from diffdict.features.pixels.data_module import other_width
from diffdict.features.pooled import PooledLoader, PooledPictures, resolve_target
from diffdict.features.sources import LiveSource
from diffdict.features.whole_pictures import LabelledPicture, LabelledPictureLoader

MOST_LATENTS = 4096  # of a dictionary: sums of all pairs take 134 MB


class PixelGram(NamedTuple):
    """How labelled pixels lie between the tokens of a grid, whatever the tokens hold.

    With A the bilinear upsampling of tokens to these pixels and Y their classes, one-hot: sums of
    products over upsampled pixels are products of tokens through Aᵀ A, and nothing is upsampled.
    """

    between: Tensor  # Aᵀ A, sparse [tokens, tokens] in float64
    labels: Float64[Tensor, "tokens classes"]  # Aᵀ Y


def pixel_gram(
    mask: Int64[Tensor, "height width"], grid: tuple[int, int], classes: int, ignored: int
) -> PixelGram:
    """Of the pixels of this mask that are not ignored."""
    height, width = mask.shape
    place = (mask.flatten() != ignored).nonzero()[:, 0]
    corners = find_corners(place // width, place % width, grid, (height, width))
    across, down = corners.across.double(), corners.down.double()
    weight = torch.stack(
        [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    )
    four = corners.tokens
    pairs = torch.stack([four[:, None].expand(4, 4, -1), four[None].expand(4, 4, -1)])
    tokens = grid[0] * grid[1]
    between = torch.sparse_coo_tensor(
        pairs.flatten(1),
        (weight[:, None] * weight).flatten(),
        (tokens, tokens),
        check_invariants=False,
    )
    labels = torch.zeros(tokens, classes, dtype=torch.float64, device=mask.device)
    owners = mask.flatten()[place].repeat(4)
    labels.index_put_((four.flatten(), owners), weight.flatten(), accumulate=True)
    return PixelGram(between.coalesce(), labels)


class ProbePictures(PixelDataModule):
    """Labelled pictures in three loaders: most for training, those held out, and the test ones."""

    def __init__(
        self,
        *,
        target: str | None = None,
        val_share: float | int = 0.25,
        least_pixels: int = 20,
        attributes: str | Sequence[str] | None = None,
        **pixels: object,
    ) -> None:
        """`val_share` of the training pictures, the last of them, choose the ridge.

        `target` is pixels, class, presence (`least_pixels` of a class make it present) or
        attributes; None: by the labels that there are. Of pixels whole pictures come, of the others
        pooled maps. `attributes` are the names of some, or all that are binary or number.
        """
        super().__init__(**pixels)
        if not 0 < val_share < 1:
            raise UserError(f"data.val_share lies between 0 and 1, got {val_share}")
        at_least(1, "data", least_pixels=least_pixels)
        self.asked, self.val_share, self.least_pixels = target, val_share, least_pixels
        self.asked_attributes = attributes
        self._check_pool(target)

    def _check_pool(self, target: str | None) -> None:
        """Of pixels nothing can be said by one vector a map."""
        if target == "pixels" and self.sources.pool is not None:
            raise UserError(
                f"pool={self.sources.pool} keeps one vector of each map, and target=pixels is "
                "about pixels: leave pool= out, or target=class or target=presence"
            )
        if self.sae is not None and self.sources.pool is not None:
            raise UserError(
                f"data.sae={self.sae} makes codes of whole maps, and pool={self.sources.pool} "
                "keeps one vector of each: leave one of them out"
            )

    @property
    def target(self) -> str:
        """What is predicted."""
        return resolve_target(self.asked, self._source("train").facts)

    @property
    def facts(self) -> dict:
        """Those of labelled pictures, what each map is, and which classes are predicted."""
        target = self.target
        self._check_pool(target)
        coded = target != "pixels" and self.sae is not None
        facts = self._coded_facts() if coded else super().facts
        if target == "class":
            names = list(facts["picture_classes"])
            facts |= {"num_classes": len(names), "class_names": names}
        if target == "attributes":
            facts |= asked_facts(facts, self._columns(facts)) | {"parts": self._parts()}
        source = self._source("train")
        streams, levels = source.streams, source.noise_levels
        if coded:
            streams = code_streams(streams, self._dictionary.latents)
            levels = [level for level in levels for _ in (None, *POOLED)]
        return {
            **facts,
            "target": target,
            "cells": [stream.facts for stream in streams],
            "noise_levels": levels,
        }

    def _coded_facts(self) -> dict:
        """Those of the pictures, where each map comes through a dictionary of its own width too."""
        source, sae = self._source("train"), self._dictionary
        for stream in source.streams:
            if stream.channels != sae.d_in:
                raise UserError(other_width(self.sae, sae.d_in, stream.channels, [stream.name]))
        if sae.latents > MOST_LATENTS:
            raise UserError(
                f"data.sae={self.sae} has {sae.latents} latents, and a probe in closed form adds "
                f"up every pair of them, of {MOST_LATENTS} at most: take a smaller dictionary"
            )
        return {**source.facts, "sae": str(Path(self.sae).absolute())}

    def _columns(self, facts: Mapping) -> list[int]:
        """Which of the attributes are asked for."""
        return asked_columns(self.asked_attributes, facts)

    def _parts(self) -> list[dict]:
        """Those of a code, where the network at work is an encoder whose code has some."""
        source = self._source("train")
        if not isinstance(source, LiveSource):
            return []
        return [part._asdict() for part in code_parts(source.net)]

    def test_dataloader(self) -> list[LabelledPictureLoader | PooledLoader]:
        """A rank without pictures could not take part in what comes of the others'."""
        count, test = len(self._source("train")), len(self._source("test"))
        held = max(1, round(count * self.val_share))
        world = self._rank_and_world()[1]
        if min(count - held, held, test) < world:
            raise UserError(
                f"Probes are fitted on {count - held} pictures, chosen by {held} and tested on "
                f"{test}: each of {world} rank(s) needs one of each. Use fewer ranks, "
                "dataset.train_pictures= or data.val_share="
            )
        parts = (("train", range(count - held)), ("train", range(count - held, count)))
        return [self._part(*part) for part in (*parts, ("test", range(test)))]

    def on_after_batch_transfer(
        self, batch: LabelledPicture | PooledPictures, dataloader_idx: int
    ) -> LabelledPicture | PooledPictures:
        """Whole pictures become codes where there is a dictionary."""
        if isinstance(batch, PooledPictures):
            return batch
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def _part(self, split: str, pictures: Sequence[int]) -> LabelledPictureLoader | PooledLoader:
        """This rank's pictures, whole or pooled."""
        if self.target == "pixels":
            return self._whole(split, pictures)
        rank, world = self._rank_and_world()
        source, share, target = self._source(split), pictures[rank::world], self.target
        sae = None if self.sae is None else self._dictionary
        columns = None
        if target == "attributes":
            check_same_attributes(self._source("train").facts, source.facts)
            columns = self._columns(source.facts)
        return PooledLoader(source, share, self.batch_size, target, self.least_pixels, sae, columns)
