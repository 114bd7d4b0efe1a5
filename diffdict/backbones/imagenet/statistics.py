"""The colours that networks trained on ImageNet's statistics were shown."""

from jaxtyping import Float
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in [0, 1], over ImageNet's training pictures
STD = (0.229, 0.224, 0.225)


def normalised(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Pictures in [-1, 1] with each colour at mean 0 and deviation 1, as ImageNet's are."""
    mean, std = (images.new_tensor(colours)[:, None, None] for colours in (MEAN, STD))
    return ((images + 1) / 2 - mean) / std
