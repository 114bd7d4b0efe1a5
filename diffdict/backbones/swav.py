"""SwAV's ResNet-50 (Caron et al. 2020), and the one twice as wide: what every second block sees."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.imagenet.resnet import ResNet
from diffdict.backbones.imagenet.statistics import normalised
from diffdict.errors import UserError

TAPS = ("input", "output")


class SwAV(ResNet, Backbone):
    """Any ResNet-50's weights; blocks are layer1.0, layer1.2, layer2.0 … layer4.2."""

    unused = ("projection_head.", "prototypes.", "fc.")

    def __init__(
        self,
        width: int | float = 1,
        taps: str = "input",
        *,
        image_size: int = 256,
        normalise: bool = False,
        name: str = "swav",
        checkpoint: str | None = None,
    ) -> None:
        """`taps` says which side of a block its map is; the published features are the inputs.

        Pictures have ImageNet's mean and deviation; with normalise=True they come in [-1, 1].
        """
        super().__init__(50, width)
        if taps not in TAPS:
            raise UserError(f"backbone.taps is {' or '.join(TAPS)} of the blocks, got {taps!r}")
        self.name, self.image_size = name, image_size
        self.taps, self.normalise = taps, normalise
        self.shapes = self._shapes()
        self.load(checkpoint)

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: int | None = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """One pass over the pictures as they are; noise is not used."""
        self.check_timestep(timestep)
        wanted, maps = self.chosen(blocks), {}
        x = normalised(images) if self.normalise else images
        x = self.stem(x.to(self.conv1.weight.dtype))
        for name, block in self.blocks():
            if name in wanted and self.taps == "input":
                maps[name] = x
            if len(maps) < len(wanted):
                x = block(x)
            if name in wanted and self.taps == "output":
                maps[name] = x
            if len(maps) == len(wanted):
                break
        return maps

    def _shapes(self) -> dict[Block, tuple[int, int, int]]:
        """Of every second block of each layer, counted along the way."""
        channels, side = self.conv1.out_channels, -(-self.image_size // 4)
        shapes: dict[Block, tuple[int, int, int]] = {}
        for name, block in self.blocks():
            before = channels, side
            channels, side = block.conv3.out_channels, -(-side // block.conv2.stride[0])
            if int(name.rpartition(".")[2]) % 2 == 0:
                size = before if self.taps == "input" else (channels, side)
                shapes[name] = (size[0], size[1], size[1])
        return shapes
