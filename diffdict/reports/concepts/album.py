"""Test pictures for a page, and what dictionaries see in them in one pass."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from rich.progress import track
from torch import Tensor

from diffdict import files
from diffdict.reports.concepts.heights import token_maps
from diffdict.reports.concepts.page import PagePicture
from diffdict.reports.concepts.strongest import Strongest
from diffdict.reports.drawing.colours import rainbow
from diffdict.sae.base import Sae

IGNORED = 255  # in a page's masks, which have a byte a pixel
QUALITY = 88  # of JPEG: no blocks to be seen in a picture that is shown about twice enlarged


class Album:
    """The first pictures of a data module's test split, at no more than some side."""

    def __init__(self, data: pl.LightningDataModule, most: int, side: int) -> None:
        """`most` of them."""
        self.data, self.most, self.side = data, most, side
        self.facts = facts = data.facts
        self.palette = facts.get("palette") or rainbow(facts.get("num_classes") or 0)
        self.looked = 0  # at so many pictures
        self.stacked = False  # each map is seen by itself
        self.masks: dict[int, UInt8[np.ndarray, "height width"]] = {}

    @torch.no_grad()
    def look(self, saes: Mapping[str, Sae], top: int) -> dict[str, Strongest]:
        """One pass for all dictionaries; nothing but the strongest maps is kept."""
        strongest: dict[str, Strongest] = {}
        pictures = self.data.seen("test")
        total = min(self.most, len(pictures))
        some = islice(pictures, self.most)
        for item in track(some, "Strongest pictures", total, console=files.console()):
            self.looked += 1
            if item.mask is not None:
                self.masks[item.index] = _reduced(item.mask, self.side)
            for name, sae in saes.items():
                maps = token_maps(item.maps.images(), sae.d_in)
                self.stacked = len(maps) > 1
                if name not in strongest:
                    strongest[name] = Strongest(sae.latents, tuple(maps[0].shape[1:]), top)
                for number, tokens in enumerate(maps):
                    tokens = tokens.flatten(1).T.to(sae.W_enc.device)
                    place = item.index * len(maps) + number
                    strongest[name].add(place, sae.encode_sparse(tokens))
        return strongest

    @property
    def missing(self) -> dict[str, str]:
        """What stands for pictures that are not here, as a page says it."""
        if self.data.picture("test", 0) is not None:
            return {}
        stand = "masks stand" if self.masks else "grey stands"
        return {"pictures": f"not here: {stand} for them"}

    def picture(self, place: int) -> PagePicture:
        """As a page shows what `look` calls by this number."""
        index, number = divmod(place, len(self.facts["maps"])) if self.stacked else (place, 0)
        name = self.data.picture_name("test", index)
        name = name.removeprefix(self.facts["dataset"] + "/")
        name = f"{name} {self.facts['maps'][number]}" if self.stacked else name
        image, mask = self.data.picture("test", index), self.masks.get(index)
        data = encode_picture(image, mask, self.palette, self.side)
        return PagePicture(name, data, mask)


def encode_picture(
    image: Float[Tensor, "3 height width"] | None,
    mask: UInt8[np.ndarray, "_ _"] | None,
    palette: Sequence[Sequence[int]],
    side: int,
) -> bytes:
    """A picture as a small file; its mask in colours where it is not here, else a grey field."""
    if image is not None:
        bytes_ = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        pixels = bytes_.permute(1, 2, 0).cpu().numpy()
    elif mask is not None:
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: len(palette)] = palette
        pixels = table[mask]
    else:
        pixels = np.full((8, 8, 3), 128, dtype=np.uint8)
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    if image is None:
        picture.save(stream, format="PNG", optimize=True)
    else:
        picture.save(stream, format="JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return stream.getvalue()


def _reduced(mask: Int64[Tensor, "_ _"], side: int) -> UInt8[np.ndarray, "_ _"]:
    """The labels at no more than this side, unmixed, in a byte each."""
    step = max(1, math.ceil(max(mask.shape) / side))
    labels = mask[step // 2 :: step, step // 2 :: step]
    labels = torch.where((labels < 0) | (labels > IGNORED), IGNORED, labels)
    return labels.to(torch.uint8).cpu().contiguous().numpy()
