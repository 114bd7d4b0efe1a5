"""Two views of a picture without any crop: mirrored, other colours, grey, blurred."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from diffdict.data.base import Pictures, PictureSample
from diffdict.errors import UserError
from diffdict.seeds import entropy

LUMA = (0.2989, 0.587, 0.114)  # how bright red, green and blue are
SIGMAS = (0.1, 2.0)  # of the blur
TRAIN, JUDGE = range(2)  # which family of draws a seed opens

Adjustment = Callable[[Tensor, float], Tensor]  # of a picture in [0, 1] by a factor


class Views:
    """What happens to a picture at random (Chen et al. 2020, without their crop).

    `jitter`: how far brightness, contrast, saturation and hue go, in an order that is drawn. The
    other numbers are probabilities.
    """

    def __init__(
        self,
        flip: int | float = 0.5,
        jitter: Sequence[int | float] = (0.8, 0.8, 0.8, 0.2),
        jittered: int | float = 0.8,
        grey: int | float = 0.2,
        blur: int | float = 0.5,
    ) -> None:
        shares = {"flip": flip, "jittered": jittered, "grey": grey, "blur": blur}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"{name} is a probability in [0, 1], got {share}: 0.5, say")
        if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
            raise UserError(
                "jitter is how far brightness, contrast, saturation and hue go, none below 0, hue "
                f"0.5 at most, got {list(jitter)}: [0.8,0.8,0.8,0.2]"
            )
        self.flip, self.jitter, self.jittered = flip, tuple(map(float, jitter)), jittered
        self.grey, self.blur = grey, blur

    def __call__(
        self, image: Float[Tensor, "3 height width"], generator: torch.Generator
    ) -> Float[Tensor, "3 height width"]:
        """One view of a picture in [-1, 1]."""
        uniform = torch.rand(10, generator=generator, dtype=torch.float64).tolist()
        order = torch.randperm(4, generator=generator).tolist()
        flipped, jittered, grey, blurred, sigma, *factors = uniform
        if flipped < self.flip:
            image = image.flip(-1)
        image = (image + 1) / 2
        if jittered < self.jittered:
            image = jitter_colours(image, self.jitter, factors, order)
        if grey < self.grey:
            image = luma(image).expand_as(image)
        if blurred < self.blur:
            image = blurred_picture(image, SIGMAS[0] + sigma * (SIGMAS[1] - SIGMAS[0]))
        return image * 2 - 1


class TwoViews(Dataset):
    """Pictures under keys (epoch, index), or index alone where nothing is learned from them."""

    def __init__(self, dataset: Pictures, views: Views | None, seed: int) -> None:
        """`views`: None shows every picture twice as it is."""
        self.dataset, self.views, self.seed = dataset, views, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int] | int) -> PictureSample:
        """`image` and `other`, functions of (seed, epoch, picture)."""
        words = (TRAIN, *key) if isinstance(key, tuple) else (JUDGE, 0, key)
        image = self.dataset[words[-1]]["image"]
        sides = [image, image]
        if self.views is not None:
            generator = torch.Generator().manual_seed(entropy(self.seed, *words))
            sides = [self.views(image, generator) for _ in range(2)]
        return {"image": sides[0], "other": sides[1], "index": words[-1]}

    def batch(self, keys: Sequence[tuple[int, int] | int]) -> PictureSample:
        """Several samples as one batch."""
        return default_collate([self[key] for key in keys])


def jitter_colours(
    image: Float[Tensor, "3 height width"],
    reach: Sequence[float],
    uniform: Sequence[float],
    order: Sequence[int],
) -> Float[Tensor, "3 height width"]:
    """Brightness, contrast, saturation and hue one after the other; `uniform` says how far each."""
    adjust: list[Adjustment] = [brightened, contrasted, saturated, hued]
    for i in order:
        if reach[i] == 0:
            continue
        low, high = (-reach[i], reach[i]) if i == 3 else (max(0.0, 1 - reach[i]), 1 + reach[i])
        image = adjust[i](image, low + uniform[i] * (high - low))
    return image


def luma(image: Float[Tensor, "3 height width"]) -> Float[Tensor, "1 height width"]:
    """How bright each pixel is."""
    return (image * image.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)


def brightened(
    image: Float[Tensor, "3 height width"], factor: float
) -> Float[Tensor, "3 height width"]:
    """0: black; 1: as it is."""
    return (image * factor).clamp(0, 1)


def contrasted(
    image: Float[Tensor, "3 height width"], factor: float
) -> Float[Tensor, "3 height width"]:
    """0: its mean brightness everywhere; 1: as it is."""
    return torch.lerp(luma(image).mean(), image, factor).clamp(0, 1)


def saturated(
    image: Float[Tensor, "3 height width"], factor: float
) -> Float[Tensor, "3 height width"]:
    """0: grey; 1: as it is."""
    return torch.lerp(luma(image).expand_as(image), image, factor).clamp(0, 1)


def hued(image: Float[Tensor, "3 height width"], turn: float) -> Float[Tensor, "3 height width"]:
    """The colours turned by this part of the circle; brightness and saturation of HSV stay."""
    value, least = image.amax(0), image.amin(0)
    chroma = value - least
    red, green, blue = image
    safe = chroma.clamp(min=1e-12)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (hue + 6 * turn) % 6
    sectors = hue.new_tensor([5.0, 3.0, 1.0])[:, None, None]  # of red, green and blue
    k = (sectors + hue) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def blurred_picture(
    image: Float[Tensor, "3 height width"], sigma: float
) -> Float[Tensor, "3 height width"]:
    """Under a Gaussian of a tenth of the picture, mirrored at its borders."""
    radius = image.shape[-1] // 20
    if radius == 0:
        return image
    at = torch.arange(-radius, radius + 1, dtype=image.dtype)
    weights = torch.exp(-(at**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = F.pad(image[:, None], [radius] * 4, mode="reflect")
    rows = F.conv2d(padded, weights.view(1, 1, -1, 1))
    return F.conv2d(rows, weights.view(1, 1, 1, -1))[:, 0]
