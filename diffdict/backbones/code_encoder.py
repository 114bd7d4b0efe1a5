"""The convolutional encoder of PDAE and DiTi, which makes one code of a picture."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone, Parts
from diffdict.backbones.guided_layers import GROUPS, Attention, GroupNorm
from diffdict.errors import UserError

LAST = 4  # side of the last map
ATTENDS = 16  # side of the map that attends, where there is one
HEADS = 4


class CodeEncoder(CodeBackbone):
    """Convolutions that halve the picture down to 4 × 4, and a linear layer to the code."""

    within = "encoder."  # of a PDAE

    def __init__(
        self,
        image_size: int,
        code: int = 512,
        widths: Sequence[int] | None = None,
        *,
        segments: Parts = None,
        name: str = "code_encoder",
        checkpoint: str | None = None,
    ) -> None:
        """`widths` are those of the convolutions; None: as published at 64 and 128."""
        super().__init__()
        self.name = name
        self.image_size = image_size
        check_code(code)
        self.encoder = layers(image_size, code, published_widths(image_size, widths))
        self.name_blocks(code, segments)
        self.load(checkpoint)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch code"]:
        """One code a picture."""
        self.check_pictures(images)
        return self.encoder(images.to(self.encoder[0].weight.dtype))

    def codes(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch code"]:
        """One code a picture."""
        return self(images)


def check_code(code: int) -> None:
    """A code has entries."""
    if code < 1:
        raise UserError(f"code is the number of its entries, at least 1, got {code}: 512 is usual")


def published_widths(image_size: int, widths: Sequence[int] | None) -> list[int]:
    """The width of each convolution, if they can halve a picture of this size to 4 × 4."""
    halvings = (image_size // LAST).bit_length() - 1
    if halvings < 1 or image_size != LAST * 2**halvings:
        raise UserError(
            f"A code encoder halves its pictures down to {LAST} × {LAST}, got image_size="
            f"{image_size}: 64 or 128, or another power of two from 8 on"
        )
    if widths is None:  # 64, then twice as wide each, up to twice the side
        return [min(64 * 2**i, max(128, 2 * image_size)) for i in range(halvings)]
    if len(widths) != halvings or any(width < 1 or width % GROUPS for width in widths):
        raise UserError(
            f"widths are {halvings} multiples of {GROUPS} for image_size={image_size}, one a "
            f"halving, got {list(widths)}: null takes the published ones"
        )
    return list(widths)


def layers(image_size: int, code: int, widths: Sequence[int]) -> nn.Sequential:
    """Strided convolutions, each normed, with one attention; under the original's numbers."""
    stack = nn.Sequential()
    channels, side = 3, image_size
    for width in widths:
        stack.append(nn.Conv2d(channels, width, 3, stride=2, padding=1))
        channels, side = width, side // 2
        if side == ATTENDS:
            stack.append(Attention(channels, HEADS, new_order=False))
        stack.append(GroupNorm(GROUPS, channels))
        stack.append(nn.SiLU())
    stack.append(nn.Flatten())
    stack.append(nn.Linear(channels * LAST * LAST, code))
    return stack
