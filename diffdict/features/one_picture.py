"""One picture, prepared and looked at as those of a data set were."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from diffdict import files
from diffdict.backbones.base import Backbone
from diffdict.bilinear.maps import NativeMaps
from diffdict.data.base import Pictures
from diffdict.data.pictures import (
    check_sides,
    decode_picture,
    fit_guided,
    fit_picture,
    in_range,
    squashed,
)
from diffdict.errors import UserError, command, override
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.noise import Noise
from diffdict.features.normalisation import Normalisation
from diffdict.features.sources import LiveSource
from diffdict.features.whole_pictures import hold

FITS = ("squash", "guided", "center")  # how a file becomes a square
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


class OnePicture(Dataset):
    """The one picture that is being looked at, whatever number its noise is drawn for."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.image = torch.zeros(3, image_size, image_size)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.image}

    def picture_name(self, index: int) -> str:
        """A file of captions has none for it."""
        return "the picture"


def open_picture(
    path: str | Path, side: int, fit: str = "center", strict: bool = False
) -> Float[Tensor, "3 side side"]:
    """A picture file as a square, upright, at this size and in [-1, 1].

    `fit`: center, the middle square; guided, that as guided-diffusion cuts and resizes it; squash,
    all of the picture whatever that makes of its shape. `strict`: center too refuses what is
    thinner than 8 pixels, or 50 times as long as wide.
    """
    path = Path(path)
    if path.is_dir():
        word = command(override("dataset.path", str(path)))
        raise UserError(f"{path} is a folder: name one picture in it, or {word}")
    if not path.is_file():
        raise UserError(f"No picture at {path}: picture=PATH names one file")
    pixels = _upright(decode_picture(path, str(path)), path)
    if strict or fit != "center":
        check_sides(pixels, str(path))
    if fit == "center":
        return fit_picture(pixels, side, "center", str(path))
    side = side or min(pixels.shape[:2])
    square = fit_guided(pixels, side) if fit == "guided" else squashed(pixels, side)
    return in_range(square.transpose(2, 0, 1))


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
    normalisation: Normalisation = Normalisation(),  # noqa: B008 - immutable
) -> NativeMaps:
    """What the backbone sees in the picture, one pass a timestep.

    `sha256`: of the weights that it was looked with before; others are refused.
    """
    if sha256 not in (None, net.sha256):
        raise UserError(
            f"What was learned of {net.name} saw through weights {sha256[:12]}…, the ones here are "
            f"{net.sha256[:12]}…: put the right ones in their place"
        )
    shown = OnePicture(image.shape[1])
    shown.image = image
    noise = Noise(**(noise or {}))
    options = {"dtype": "fp32", "device": device, "normalisation": normalisation}
    source = LiveSource(shown, net, timestep, block, noise, **options)
    return hold(source, [0], tuple(image.shape[1:])).to(device)


class PictureFiles(Pictures):
    """A picture's file, or all in a folder, each fitted as `picture=` is."""

    suffixes = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

    def __init__(self, path: str, image_size: int, split: str = "test") -> None:
        """`split` is no more than its name: there is one."""
        place = Path(path)
        paths = sorted(place.iterdir()) if place.is_dir() else [place]
        self.paths = [each for each in paths if each.suffix.lower() in self.suffixes]
        if not self.paths:
            raise UserError(
                f"pictures={path} is no picture and holds none ({', '.join(self.suffixes)}): name "
                "a file, a folder of them, or a split of the set, pictures=test"
            )
        self.name, self.split, self.image_size = place.stem, split, image_size
        digests = [files.sha256(each) for each in self.paths if each.is_file()]
        self.fingerprint = f"files {' '.join(digests)[:400]} {image_size}"

    def __len__(self) -> int:
        return len(self.paths)

    def picture_name(self, index: int) -> str:
        """The file's name."""
        return self.paths[index].name

    def __getitem__(self, index: int) -> dict:
        return {"image": open_picture(self.paths[index], self.image_size), "index": index}
