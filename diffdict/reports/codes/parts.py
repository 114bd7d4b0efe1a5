"""Parts of a code by name: its stages, or runs of its segments."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from diffdict.backbones.autoencoders.code_backbone import part_entries
from diffdict.backbones.pdae import Pdae
from diffdict.errors import UserError

EIGHTHS = 8  # how a code without parts is cut
AskedParts = Sequence[Sequence[int]] | str | None


class CodeSlice(NamedTuple):
    """Some consecutive entries of a code."""

    name: str
    entries: slice


def code_slices(pdae: Pdae, wanted: AskedParts, word: str) -> list[CodeSlice]:
    """Those asked for as [first, end) of the segments; `stages` or None: the stages.

    A code without stages or segments is cut into eighths.
    """
    code, segments = pdae.shapes["code"][0], pdae.segments
    if wanted in (None, "stages"):
        cuts = pairwise(code * i // EIGHTHS for i in range(EIGHTHS + 1))
        eighths = {f"eighth{i}": slice(*cut) for i, cut in enumerate(cuts) if cut[1] > cut[0]}
        parts = eighths if segments is None else part_entries(segments)
        return [CodeSlice(re.sub(r"(\d+)", r" \1", name), part) for name, part in parts.items()]
    if isinstance(wanted, str):
        raise UserError(
            f"report.{word}.segments are stages, or [first, end] of segments, got {wanted!r}: "
            f'"report.{word}.segments=[[0,2],[2,6]]"'
        )
    if segments is None:
        raise UserError(
            f"{pdae.name} has a code without segments, got report.{word}.segments="
            f"{[list(part) for part in wanted]}: null, or backbone.segments= as it was trained"
        )
    ends = [0, *segments.ends.tolist()]
    slices = []
    for part in wanted:
        if len(part) != 2 or not 0 <= part[0] < part[1] < len(ends):
            raise UserError(
                f"report.{word}.segments are [first, end] within the {len(ends) - 1} segments of "
                f"{pdae.name}, got {list(part)}"
            )
        first, end = part
        slices.append(CodeSlice(f"segments {first}-{end - 1}", slice(ends[first], ends[end])))
    return slices


def random_entries(code: int, part: CodeSlice, seed: int) -> Int64[Tensor, " entries"]:
    """As many entries as a part has, drawn from all."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(code, generator=generator)[: part.entries.stop - part.entries.start]
