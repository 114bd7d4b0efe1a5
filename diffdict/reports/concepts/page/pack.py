"""Latents' details as few bytes, and what stays when there are too many."""

import base64
import io
import math
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from diffdict.reports.concepts.page.content import Latent, PageContent

FEWEST = 3  # top pictures that each latent keeps before the worst latents lose theirs
KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Packed(NamedTuple):
    """Latents' details as base64, and how much was left out of them."""

    texts: list[str]
    top: int  # pictures that a latent shows at most
    bare: int  # latents whose pictures were left out


def pack(concepts: PageContent, room: int, named: set[int]) -> Packed:
    """As many top pictures as fit: fewer for all, then none for the latents that matter least."""
    latents = concepts.latents
    top = max((len(latent.top) for latent in latents), default=0)
    texts = [_details(latent, top) for latent in latents]
    while (size := sum(map(len, texts))) > room and top > FEWEST:
        top = max(FEWEST, min(top - 1, top * max(room, 0) // size))
        texts = [_details(latent, top) for latent in latents]
    shown = {each.latent for each in concepts.classes if each.latent is not None}
    order = sorted(range(len(latents)), key=lambda index: _worth(latents[index], named | shown))
    bare = 0
    for index in order:
        if size <= room:
            break
        if latents[index].top:
            less = _details(latents[index], 0)
            size -= len(texts[index]) - len(less)
            texts[index] = less
            bare += 1
    return Packed(texts, top, bare)


def picture_kind(data: bytes) -> str:
    """The media type of a PNG or JPEG file."""
    for start, kind in KINDS.items():
        if data.startswith(start):
            return kind
    raise ValueError(f"a page's pictures are PNG or JPEG files, got one that starts {data[:8]!r}")


def mask_bytes(mask: UInt8[np.ndarray, "height width"]) -> bytes:
    """A PNG whose grey levels are the classes."""
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _details(latent: Latent, top: int) -> str:
    """As heat.js reads it: counts (f8), maxima (f4), places (u4), maps (u1); deflated, base64."""
    shown = latent.top[:top]
    parts = [
        np.asarray(latent.histogram, dtype="<f8"),
        np.array([each.maximum for each in shown], dtype="<f4"),
        np.array([each.picture for each in shown], dtype="<u4"),
        *(np.ascontiguousarray(each.map) for each in shown),
    ]
    raw = b"".join(part.tobytes() for part in parts)
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")  # 9: 5 % less, 15 times slower


def _worth(latent: Latent, wanted: set[int]) -> tuple[bool, float | int, float | int]:
    """Ascending with how much a latent is looked for."""
    iou = latent.iou_train
    return latent.number in wanted, 0 if iou is None or math.isnan(iou) else iou, latent.density
