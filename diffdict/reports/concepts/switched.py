"""A page of latents that were switched on in drawing, out of what was measured of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.data.compared import SAMPLES
from diffdict.reports.concepts.album import encode_picture
from diffdict.reports.concepts.compose import Fact, key_of
from diffdict.reports.concepts.page import (
    Class,
    Latent,
    PageContent,
    PagePicture,
    SwitchedContent,
    SwitchedLatent,
    TopPicture,
)
from diffdict.reports.drawing.colours import rainbow
from diffdict.reports.subjects import DrawnLatents
from diffdict.results.tables import Row

BINS = 24  # of a histogram of pooled codes
LEVELS = 255  # of a map, whose largest value has the last


class Shelf:
    """Pictures that a page shows, each once."""

    def __init__(self, data: pl.LightningDataModule, side: int) -> None:
        self.data, self.side = data, side
        self.pictures: list[PagePicture] = []
        self.places: dict[tuple[str, int], int] = {}

    def place(self, split: str, index: int) -> int:
        """Where this picture stands."""
        if (split, index) not in self.places:
            self.places[split, index] = len(self.pictures)
            image = self.data.picture(split, index)
            name = self.data.split(split).picture_name(index)
            self.pictures.append(PagePicture(name, encode_picture(image, None, [], self.side)))
        return self.places[split, index]


def compose_switched(
    drawn: DrawnLatents,
    facts: Mapping[str, Fact],
    data: pl.LightningDataModule,
    top: int,
    side: int,
) -> PageContent:
    """All of the page; a latent has the `top` real pictures of its largest pooled code."""
    shelf, rows = Shelf(data, side), drawn.rows
    names = list(dict.fromkeys(row["class"] for row in rows if row["class"]))
    classes = [
        Class(name, colour, None, *[None] * 4)
        for name, colour in zip(names, rainbow(len(names)), strict=True)
    ]
    columns = [list(drawn.latents).index(row["latent"]) for row in rows]
    codes = drawn.codes[:, columns]
    edges = np.linspace(0, max(float(codes.max()), 1e-12), BINS + 1)
    latents = [
        _latent(
            row, codes[:, at], edges, names, _strongest(drawn, shelf, codes[:, at], column, top)
        )
        for at, (row, column) in enumerate(zip(rows, columns, strict=True))
    ]
    return PageContent(
        title=f"Latents switched on: {facts['representation']}",
        key=key_of(drawn.sae),
        facts=facts,
        classes=classes,
        latents=latents,
        switched=_switched(drawn, shelf),
        pictures=shelf.pictures,
        edges=edges.tolist(),
    )


def _latent(
    row: Row,
    codes: Float[Tensor, " pictures"],
    edges: np.ndarray,
    names: Sequence[str],
    strongest: Sequence[TopPicture],
) -> Latent:
    """Over real pictures: how often its pooled code is above zero, and its mean there."""
    active = codes > 0
    return Latent(
        number=row["latent"],
        density=float(active.float().mean()),
        mean=float(codes[active].mean()),
        best_class=names.index(row["class"]) if row["class"] else None,
        iou_train=None,
        iou_test=None,
        histogram=np.histogram(codes[active].numpy(), edges)[0],
        top=strongest,
    )


def _strongest(
    drawn: DrawnLatents, shelf: Shelf, codes: Float[Tensor, " pictures"], column: int, top: int
) -> list[TopPicture]:
    """The real pictures with the largest pooled code, and where in them it is active."""
    chosen = codes.argsort(descending=True, stable=True)[:top].tolist()
    split, pictures = shelf.data.test_split, []
    for index in chosen:
        image = shelf.data.picture(split, index)[None].to(drawn.sae.W_enc.device)
        activation = drawn.maps(image)[0, column].cpu()
        largest = float(activation.max())
        levels = (activation / max(largest, 1e-12) * LEVELS).round().to(torch.uint8).numpy()
        pictures.append(TopPicture(shelf.place(split, index), largest, levels))
    return pictures


def _switched(drawn: DrawnLatents, shelf: Shelf) -> SwitchedContent:
    """Every latent's samples and figures; of random directions the first pair of each."""
    lines = [line for line, latent in enumerate(drawn.pairs.latents) if latent >= 0]
    random = [line for line, latent in enumerate(drawn.pairs.latents) if latent < 0]
    latents = [
        SwitchedLatent(
            rise=row["rise"],
            rise_null=row["null"],
            p=row["p"],
            rank=row["rank"],
            area=row["area"],
            area_null=row["area_null"],
            pixels=row["pixels"],
            pixels_null=row["pixels_null"],
            rises=row["rises"],
            pairs=_pairs(shelf, drawn.pairs.off[line], drawn.pairs.on[line]),
        )
        for line, row in zip(lines, drawn.rows, strict=True)
    ]
    firsts = [
        _pairs(shelf, drawn.pairs.off[line, :1], drawn.pairs.on[line, :1])[0] for line in random
    ]
    return SwitchedContent(latents, len(drawn.latents), firsts)


def _pairs(
    shelf: Shelf, off: Int[Tensor, " noises"], on: Int[Tensor, " noises"]
) -> list[tuple[int, int]]:
    both = zip(off.tolist(), on.tolist(), strict=True)
    return [(shelf.place(SAMPLES, one), shelf.place(SAMPLES, other)) for one, other in both]
