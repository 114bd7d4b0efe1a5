"""Lines of pictures with a title each, one below the other."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.reports.drawing.contact_sheet import contact_sheet


class PictureLine(NamedTuple):
    """Pictures from left to right, a caption below each."""

    pictures: Float[Tensor, "n 3 side side"]
    captions: Sequence[str]


def draw_lines(lines: Sequence[PictureLine]) -> Image.Image:
    """One sheet; shorter lines are filled with white."""
    columns = max(len(line.pictures) for line in lines)
    cells, captions = [], []
    for line in lines:
        missing = columns - len(line.pictures)
        white = torch.ones_like(line.pictures[:1]).expand(missing, -1, -1, -1)
        cells.append(torch.cat([line.pictures, white]).cpu())
        captions += [*line.captions, *[""] * missing]
    return contact_sheet(torch.cat(cells), columns=columns, captions=captions)
