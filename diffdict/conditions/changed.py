"""`condition=changed`: pictures as they are, and grey, flipped, turned, zoomed, blurred, shifted.

What samples of both have in common is what the representation does not see (Bordes et al. 2022).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffdict.conditions.base import (
    ConditionRows,
    ConditionSource,
    MakesVectors,
    check_maker,
    check_vectors,
    picture_vectors,
)
from diffdict.conditions.pictures import PictureVectors
from diffdict.data.base import Pictures
from diffdict.errors import UserError, at_least

SAME = "same"
LUMINANCE = (0.299, 0.587, 0.114)
TURN, ZOOM, SHIFT = math.radians(15), 1.25, 1 / 8  # the last a share of the side
BLUR = 1 / 32  # deviation of the Gaussian, as a share of the side

Images = Float[Tensor, "n 3 side side"]


class ChangedVectors(ConditionSource):
    """Of each picture and change `each` samples; the noises are the same for all of them."""

    def __init__(
        self,
        dataset: Callable[..., Pictures] | None = None,
        split: str = "test",
        path: str | None = None,
        number: int | None = 1,
        changes: Sequence[str] | None = None,
        each: int = 6,
        side: int | None = None,
        fit: str | None = None,
        undirected: float | int = 0.0,
    ) -> None:
        """`path`, `number`, `side` and `fit` as with condition=pictures. `changes`: None is all."""
        at_least(1, "condition", each=each)
        chosen = list(CHANGES) if changes is None else list(changes)
        if wrong := [name for name in chosen if name not in CHANGES]:
            raise UserError(f"condition.changes are some of {', '.join(CHANGES)}, got {wrong[0]!r}")
        self.pictures = PictureVectors(dataset, split, path, number, 1, side, undirected, fit)
        self.changes, self.each, self.undirected = [SAME, *chosen], each, undirected
        self.number = self.pictures.count * len(self.changes) * each
        self._tables: dict[str, list[dict[str, str | float | None]]] = {}

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """Picture after picture, each change's samples together."""
        maker = check_maker(maker)
        names, side = self.pictures.names(), maker.image_size or self.pictures.side
        vectors, shown = [], []
        for name in names:
            index = len(shown) // len(self.changes)
            views = self._changed(self.pictures.image(index, side, maker)[None])
            change_vectors = picture_vectors(maker, list(views), device)
            check_vectors(
                change_vectors, width, [f"{name} {one}" for one in self.changes], maker.name, "It"
            )
            vectors.append(change_vectors)
            small = self.pictures.image(index, self.pictures.side, maker)[None]
            shown += list(self._changed(small))
        every = torch.stack(vectors)
        self._tables = {"changes": self._found(every)}
        source = [line for line in range(len(shown)) for _ in range(self.each)]
        noises = list(range(self.each)) * len(shown)
        return ConditionRows(
            every.flatten(0, 1)[source],
            [self.changes[line % len(self.changes)] for line in source],
            source,
            torch.stack(shown),
            start=noises,
            steps=noises,
        )

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """The pictures, their changes, and the network that looks at them."""
        return {
            **self.pictures.facts(maker),
            "condition": "changed",
            "changes": self.changes,
            "each": self.each,
        }

    def tables(self) -> Mapping[str, Sequence[Mapping[str, str | float | None]]]:
        """How far each change moves the vector."""
        return self._tables

    def _changed(
        self, image: Float[Tensor, "1 3 side side"]
    ) -> Float[Tensor, "changes 3 side side"]:
        """The picture as it is, then every change of it."""
        return torch.cat([image, *(CHANGES[name](image) for name in self.changes[1:])])

    def _found(
        self, vectors: Float[Tensor, "pictures changes width"]
    ) -> list[dict[str, str | float | None]]:
        """Means over the pictures; `share`: 0, the change is not seen, 1: as another picture."""
        originals = vectors[:, :1].double()
        distance = (vectors.double() - originals).square().sum(2).mean(0)
        cosine = F.cosine_similarity(vectors.double(), originals, dim=2).mean(0)
        others = torch.pdist(originals[:, 0]).square().mean() if len(vectors) > 1 else None
        return [
            {
                "change": name,
                "distance": float(distance[place]),
                "cosine": float(cosine[place]),
                "share": None if others is None else float(distance[place] / others),
            }
            for place, name in enumerate(self.changes)
        ]


def grey(images: Images) -> Images:
    """Its luminance in all three colours."""
    weight = images.new_tensor(LUMINANCE)[:, None, None]
    return (images * weight).sum(1, keepdim=True).expand_as(images)


def moved(images: Images, turn: float = 0.0, zoom: float = 1.0, shift: float = 0.0) -> Images:
    """Turned (radians), enlarged, then shifted to the right; what is missing is mirrored."""
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    matrix = images.new_tensor([[cosine, -sine, -2 * shift], [sine, cosine, 0]])
    grid = F.affine_grid(matrix[None].expand(len(images), -1, -1), list(images.shape), False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def blurred(images: Images) -> Images:
    """Through a Gaussian of 1/32 of the side, its borders mirrored."""
    deviation = images.shape[-1] * BLUR
    reach = max(1, round(3 * deviation))
    place = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    line = torch.exp(-(place**2) / (2 * deviation**2))
    window = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    return F.conv2d(padded, window.expand(3, 1, -1, -1), groups=3)


CHANGES: dict[str, Callable[[Images], Images]] = {
    "grey": grey,
    "flipped": lambda images: images.flip(-1),
    "turned": lambda images: moved(images, turn=TURN),
    "zoomed": lambda images: moved(images, zoom=ZOOM),
    "blurred": blurred,
    "shifted": lambda images: moved(images, shift=SHIFT),
}
