"""Pictures and labels in bytes of colour."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

UNKNOWN = (0, 0, 0)  # ignored pixels


def rainbow(classes: int) -> list[tuple[int, int, int]]:
    """Colours for classes that brought none: golden-angle hues, three brightnesses in turn."""
    hsv = [(int(i * 0.618034 * 256) % 256, 170, (235, 175, 120)[i % 3]) for i in range(classes)]
    strip = Image.fromarray(np.array([hsv], dtype=np.uint8).reshape(1, -1, 3), "HSV")
    return [tuple(colour) for colour in np.asarray(strip.convert("RGB"))[0].tolist()]


def as_bytes(images: Float[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Pictures in [-1, 1] as they are kept in files."""
    pixels = (images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def colours_of(
    labels: Int[Tensor, "n h w"], palette: Sequence[Sequence[int]]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Labels in their colours; those beyond the palette, as ignored ones are, stay black."""
    table = np.array([*palette, UNKNOWN], dtype=np.uint8)
    numbers = labels.cpu().numpy()
    return table[np.where((numbers >= 0) & (numbers < len(palette)), numbers, len(palette))]
