"""For each class a row: pictures, their masks, and where its best two latents are active."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from diffdict.errors import UserError
from diffdict.metrics.concepts.assignment import NONE, choice_figures
from diffdict.metrics.concepts.findings import Findings
from diffdict.metrics.concepts.pre_activations import pre_of
from diffdict.reports.concepts.heights import heights, token_maps
from diffdict.reports.drawing.chosen import labels_of
from diffdict.reports.drawing.colours import as_bytes, colours_of, rainbow
from diffdict.reports.drawing.figure import SIDE, FigureRow, Scale, draw_figure
from diffdict.reports.drawing.overlay import enlarged, outlined, overlay, tinted
from diffdict.reports.subjects import HasDictionaries
from diffdict.sae.base import Sae
from diffdict.sae.grid import ALONE

COLUMNS = ("picture", "truth", "1st latent", "2nd latent")
SCALE = Scale(
    "just active",
    "its strongest in these pictures",
    "Latents were chosen on the training pictures; these are test pictures. Coloured is what is "
    "counted, the white line is the class's border.",
)


class ClassLatent(NamedTuple):
    """A latent for a class, and how well it fits."""

    latent: int
    threshold: float  # pre-activation above which it is counted
    train: float  # IoU
    test: float


class ClassExample(NamedTuple):
    """A picture that shows a class, and where the latents chosen for it are counted in it."""

    picture: Float[Tensor, "3 height width"] | None
    mask: Int64[Tensor, "height width"]
    heights: list[Float[Tensor, "height width"]]


def concept_figures(
    module: HasDictionaries,
    data: pl.LightningDataModule,
    classes: Sequence[str] | None,
    pictures: int,
) -> dict[str, Image.Image]:
    """A figure of each dictionary, by name; `concepts` where there is one."""
    return {
        "concepts" if name == ALONE else name: concept_figure(
            sae, findings, data, classes, pictures
        )
        for name, (sae, findings) in module.dictionaries().items()
        if findings is not None
    }


def concept_figure(
    sae: Sae,
    findings: Findings,
    data: pl.LightningDataModule,
    classes: Sequence[str] | None = None,
    pictures: int = 3,
) -> Image.Image:
    """The first test pictures that show a class well; of all classes unless some are named."""
    facts = data.facts
    rows = concept_rows(sae, findings, data, classes, pictures)
    kind = f"{sae.latents} latents ({sae.architecture.replace('_', ' ')})"
    title = f"{kind} of {facts['backbone']} on {facts['dataset']}"
    return draw_figure(title, COLUMNS, rows, SCALE)


def concept_rows(
    sae: Sae,
    findings: Findings,
    data: pl.LightningDataModule,
    classes: Sequence[str] | None,
    pictures: int,
) -> list[FigureRow]:
    """A row a class: of each picture as many cells as there are columns, or latents for them."""
    names = findings.class_names
    chosen = {label: choose_for(findings, label) for label in choose_labels(findings, classes)}
    palette = data.facts.get("palette") or rainbow(len(names))
    shown = _look(sae, findings, data, chosen, pictures)
    return [
        _row(label, names[label], chosen[label], some, palette) for label, some in shown.items()
    ]


def choose_labels(findings: Findings, names: Sequence[str] | None) -> list[int]:
    """The labels of these classes, or of all that a test picture shows."""
    class_names, absent = list(findings.class_names), findings.test.absent
    for name in names or ():
        if name in absent:
            raise UserError(f"No test picture shows {name}: leave it out of report.grid.classes")
    labels = range(len(class_names)) if names is None else labels_of(names, class_names)
    return [label for label in labels if class_names[label] not in absent]


def choose_for(findings: Findings, label: int) -> list[ClassLatent]:
    """The best latent and the runner-up, where they ever meet the class."""
    chosen = []
    for choice in (findings.best.choice, findings.second):
        latent, at = int(choice.latents[label]), int(choice.thresholds[label])
        if latent != NONE:
            threshold = float(findings.thresholds[latent, at])
            ious = [choice_figures(choice, each).iou for each in (findings.train, findings.test)]
            chosen.append(ClassLatent(latent, threshold, *(float(iou[label]) for iou in ious)))
    return chosen


@torch.no_grad()
def _look(
    sae: Sae,
    findings: Findings,
    data: pl.LightningDataModule,
    chosen: Mapping[int, list[ClassLatent]],
    pictures: int,
) -> dict[int, list[ClassExample]]:
    """Goes through the test pictures until every class has its own; each is encoded once."""
    shown: dict[int, list[ClassExample]] = {label: [] for label in chosen}
    stream = data.labelled("test")
    least = findings.test.pixels / (2 * len(stream))  # half of a class's mean area
    for item in stream:
        maps, mask, index = item.maps, item.mask, item.index
        labels = [
            label
            for label, some in shown.items()
            if len(some) < pictures and (mask == label).sum() >= max(1, float(least[label]))
        ]
        if labels:
            picture = data.picture("test", index)
            tokens = token_maps(maps.images(), sae.d_in)[0]  # of stacked streams the first
            every = [each for label in labels for each in chosen[label]]
            all_heights = iter(_heights(sae, findings, tokens, every, tuple(mask.shape)))
            for label in labels:
                latent_heights = [next(all_heights) for _ in chosen[label]]
                shown[label].append(ClassExample(picture, mask, latent_heights))
        if all(len(some) == pictures for some in shown.values()):
            break
    return shown


def _heights(
    sae: Sae, findings: Findings, tokens: Tensor, chosen: list[ClassLatent], size: tuple[int, int]
) -> Float[Tensor, "chosen height width"]:
    """Where these latents are counted in one picture."""
    floors, device = findings.thresholds[:, 0], findings.thresholds.device
    latents = torch.tensor([each.latent for each in chosen], device=device)
    thresholds = torch.tensor([each.threshold for each in chosen], device=device)
    pre = pre_of(sae.pre, tokens.to(device).permute(1, 2, 0)[None])
    return heights(pre, floors, latents, thresholds, size, findings.ranked).cpu()


def _row(
    label: int,
    name: str,
    chosen: list[ClassLatent],
    shown: list[ClassExample],
    palette: Sequence[Sequence[int]],
) -> FigureRow:
    """A class's words and cells; each latent is as hot as it gets in these pictures."""
    strongest = [
        max(float(each.heights[place].max()) for each in shown) for place in range(len(chosen))
    ]
    groups = []
    for picture, mask, latent_heights in shown:
        times = max(1, SIDE // max(mask.shape))
        inside, colour = enlarged((mask == label).numpy(), times), palette[label]
        pixels = enlarged(_pixels(picture, mask, palette), times)
        cells = [tinted(pixels, inside, colour)]
        for height, most in zip(latent_heights, strongest, strict=True):
            cells.append(overlay(pixels, enlarged((height / (most or 1)).numpy(), times)))
        groups.append([pixels, *(outlined(cell, inside) for cell in cells)])
    lines = []
    for place, each in zip(("1st", "2nd"), chosen, strict=False):
        fits = f"IoU {each.test:.2f} ({each.train:.2f} on train)"
        lines += [f"{place} latent {each.latent}", fits]
    return FigureRow(name, palette[label], lines or ["no latent meets it"], groups)


def _pixels(
    picture: Float[Tensor, "3 height width"] | None,
    mask: Int64[Tensor, "height width"],
    palette: Sequence[Sequence[int]],
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture, at its mask's size; where it is not here, the mask in colours."""
    if picture is None:
        return colours_of(mask[None], palette)[0]
    return as_bytes(picture[None])[0]
