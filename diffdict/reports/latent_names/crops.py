"""Squares cut out of pictures around places of a map."""

from typing import NamedTuple

import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from diffdict.errors import UserError


class Crop(NamedTuple):
    """A place in a picture, as a map of features counts them."""

    picture: int
    place: int  # row after row
    active: bool  # whether the latent is active there, or silent all around


class Cutter:
    """Cuts crops of a split's pictures, all of one size."""

    def __init__(
        self, data: pl.LightningDataModule, grid: tuple[int, int], share: float, side: int
    ) -> None:
        """`grid`: of the maps; `share`: of a picture's side that a crop has; `side`: in pixels."""
        self.data, self.grid, self.share, self.side = data, grid, share, side

    @property
    def reach(self) -> int:
        """How many places of the map a crop extends to each side of its middle, at most."""
        return -int(-self.share * max(self.grid) // 2)

    def __call__(self, crop: Crop) -> Float[Tensor, "3 side side"]:
        """The crop in [-1, 1], moved into the picture where it would stand out of it."""
        image = self.data.picture("test", crop.picture)
        if image is None:
            raise UserError(
                "report=names shows crops of the test pictures, which are not here: say where "
                "they are, dataset.path=…, or name latents where they are"
            )
        window = max(1, round(self.share * min(image.shape[1:])))
        corner = [
            min(max(0, round((at + 0.5) / places * size - window / 2)), size - window)
            for at, places, size in zip(
                divmod(crop.place, self.grid[1]), self.grid, image.shape[1:], strict=True
            )
        ]
        top, left = corner
        cut = image[None, :, top : top + window, left : left + window].float()
        size = (self.side, self.side)
        return interpolate(cut, size, mode="bilinear", antialias=True)[0].clamp(-1, 1)
