"""Labelled pictures in the order that probes need: to fit on, to choose by, to be tested on."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffdict.errors import UserError
from diffdict.features.gather import find_corners
from diffdict.features.labelled import PictureLoader
from diffdict.features.pixels import PixelDataModule


class Lie(NamedTuple):
    """How labelled pixels lie between the tokens of a grid, whatever the tokens hold.

    With A the bilinear upsampling of tokens to these pixels and Y their classes, one-hot: sums of
    products over upsampled pixels are products of tokens through Aᵀ A, and nothing is upsampled.
    """

    between: Tensor  # Aᵀ A, sparse [tokens, tokens] in float64
    labels: Float64[Tensor, "tokens classes"]  # Aᵀ Y


def lie(
    mask: Int64[Tensor, "height width"], grid: tuple[int, int], classes: int, ignored: int
) -> Lie:
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
    return Lie(between.coalesce(), labels)


class ProbePictures(PixelDataModule):
    """Whole pictures as three loaders: most of the training ones, those held out, the test ones."""

    def __init__(self, *, val_share: float = 0.25, **pixels: object) -> None:
        """`val_share` of the training pictures, the last of them, choose the ridge."""
        super().__init__(**pixels)
        if not 0 < val_share < 1:
            raise UserError(f"data.val_share lies between 0 and 1, got {val_share}")
        self.val_share = val_share

    @property
    def facts(self) -> dict:
        """Those of labelled pixels, and what each map is."""
        return {**super().facts, "cells": [s._asdict() for s in self._source("train").streams]}

    def test_dataloader(self) -> list[PictureLoader]:
        """A rank without pictures could not take part in what comes of the others'."""
        count, test = len(self._source("train")), len(self._source("test"))
        held = max(1, round(count * self.val_share))
        world = self._part()[1]
        if min(count - held, held, test) < world:
            raise UserError(
                f"Probes are fitted on {count - held} pictures, chosen by {held} and tested on "
                f"{test}: each of {world} rank(s) needs one of each. Use fewer ranks, "
                "dataset.train_pictures= or data.val_share="
            )
        parts = (("train", range(count - held)), ("train", range(count - held, count)))
        return [self._whole(*part) for part in (*parts, ("test", range(test)))]
