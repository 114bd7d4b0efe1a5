"""One picture, prepared and looked at as those of a data set were."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from diffdict.backbones.base import Backbone
from diffdict.data.pictures import decode_picture, fit_picture
from diffdict.errors import UserError
from diffdict.features.gather import NativeMaps
from diffdict.features.labelled import hold
from diffdict.features.noise import Noise
from diffdict.features.passes import Blocks, Timesteps
from diffdict.features.sources import LiveSource

ORIENTATION = 0x0112  # the EXIF entry by which cameras say how they were held
TURN = Image.Transpose
TURNS = {
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_90,
}


class Shown(Dataset):
    """The one picture that is being looked at, whatever number its noise is drawn for."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.image = torch.zeros(3, image_size, image_size)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.image}


def open_picture(path: str | Path, side: int) -> Float[Tensor, "3 side side"]:
    """The middle square of a picture file, upright, at this size and in [-1, 1]."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name one picture in it, or dataset.path={path}")
    if not path.is_file():
        raise UserError(f"No picture at {path}: picture=PATH names one file")
    pixels = _upright(decode_picture(path, str(path)), path)
    return fit_picture(pixels, side, "center", str(path))


def _upright(pixels: UInt8[np.ndarray, "height width 3"], path: Path) -> UInt8[np.ndarray, "_ _ 3"]:
    """As a viewer shows it, however the camera was held."""
    with Image.open(path) as image:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def see(
    image: Float[Tensor, "3 side side"],
    net: Backbone,
    timestep: Timesteps,
    block: Blocks,
    noise: Mapping | None = None,
    sha256: str | None = None,
    device: torch.device | str = "cpu",
) -> NativeMaps:
    """What the backbone sees in the picture, one pass a timestep.

    `sha256`: of the weights that it was looked with before; others are refused.
    """
    if sha256 not in (None, net.sha256):
        raise UserError(
            f"What was learned of {net.name} saw through weights {sha256[:12]}…, the ones here are "
            f"{net.sha256[:12]}…: put the right ones in their place"
        )
    shown = Shown(image.shape[1])
    shown.image = image
    noise = Noise(**(noise or {}))
    source = LiveSource(shown, net, timestep, block, noise, dtype="fp32", device=device)
    return hold(source, [0], tuple(image.shape[1:])).to(device)
