"""A dictionary's strongest concepts in one picture: drawn, and as rows of a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.metrics.concepts.activations import find_floors
from diffdict.metrics.concepts.pre_activations import pre_of
from diffdict.reports.concepts.heights import heights, token_maps
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.contact_sheet import contact_sheet
from diffdict.reports.drawing.overlay import overlay
from diffdict.results.tables import Cell, Row
from diffdict.sae.base import Sae
from diffdict.sae.grid import ALONE

SHOWN = 14  # latents; with the picture itself three lines of five
COLUMNS, TILE = 5, 192  # of the sheet: tiles in a line, and about their side


def draw_concepts(
    saes: Mapping[str, Sae],
    image: Float[Tensor, "3 height width"],
    maps: Sequence[Float[Tensor, "1 _ _ _"]],
    folder: Path,
    tables: Mapping[str, Sequence[Row]],
) -> list[dict[str, Cell]]:
    """A sheet for each dictionary in `folder`, and a row for each latent on it.

    `tables`: those of a test, which say which class each latent fits best.
    """
    rows = []
    for name, sae in saes.items():
        latents = [r for r in tables.get("latents", ()) if (r.get("dictionary") or ALONE) == name]
        by_latent = {row["latent"]: row for row in latents}
        path = folder / f"{'concepts' if name == ALONE else name}.png"
        name_column = {} if name == ALONE else {"dictionary": name}
        rows += [name_column | row for row in _look(sae, image, maps, path, by_latent)]
    return rows


@torch.no_grad()
def _look(
    sae: Sae,
    image: Tensor,
    maps: Sequence[Tensor],
    path: Path,
    by_latent: Mapping[int, Row],
) -> list[dict[str, Cell]]:
    tokens = token_maps(maps, sae.d_in)[0]  # of stacked streams the first
    peaks = _peaks(sae, tokens)
    strongest = peaks.topk(min(SHOWN, int((peaks > 0).sum()))).indices
    floors = find_floors(sae.activate, sae.latents, ranked=sae.ranked, device=sae.W_enc.device)
    pre, size = pre_of(sae.pre, tokens.permute(1, 2, 0)[None]), tuple(image.shape[1:])
    levels = heights(pre, floors, strongest, floors[strongest], size, sae.ranked).cpu()
    rows = []
    for latent, height in zip(strongest.tolist(), levels, strict=True):
        row = by_latent.get(latent, {})
        facts = {"latent": latent, "class": row.get("class"), "iou": row.get("iou")}
        share = float((height > 0).double().mean())
        rows.append({**facts, "activation": float(peaks[latent]), "share": share})
    _draw(image.cpu(), levels, rows, path)
    return rows


def _peaks(sae: Sae, tokens: Tensor) -> Float[Tensor, " latents"]:
    """Every latent's largest activation."""
    codes = sae.encode_sparse(tokens.flatten(1).T)
    peaks = torch.zeros(sae.latents, device=codes.values.device)
    return peaks.scatter_reduce_(0, codes.latents, codes.values.float(), "amax")


def _draw(image: Tensor, levels: Tensor, rows: Sequence[Row], path: Path) -> None:
    """The picture, then a tile for each latent, as hot as it gets."""
    pixels = as_bytes(image[None])[0]
    hot = levels / levels.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    tiles = [torch.tensor(overlay(pixels, each.numpy())) for each in hot]
    sheet = contact_sheet(
        torch.stack([image, *(tile.permute(2, 0, 1) / 127.5 - 1 for tile in tiles)]),
        columns=COLUMNS,
        scale=max(1, round(TILE / max(image.shape[1:]))),
        captions=["the picture", *map(_caption, rows)],
    )
    write_png(sheet, path)


def _caption(row: Row) -> str:
    class_name = f" {row['class']}" if row["class"] else ""
    return f"{row['latent']}{class_name}, {row['activation']:.2f}"
