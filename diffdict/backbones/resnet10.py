"""DiTi's ResNet-10, an encoder of small pictures: a stem of stride 1, four blocks, the mean."""

from typing import no_type_check

from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone, Parts

WIDTHS = (64, 128, 256, 512)  # of its blocks; the last one is the code's


@no_type_check
class BasicBlock(nn.Module):
    """Two 3×3 convolutions plus the input; the first has the stride (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or channels != width:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width))
        nn.init.zeros_(self.bn2.weight)  # it starts as its input

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return self.relu(h + (x if self.downsample is None else self.downsample(x)))


@no_type_check
class ResNetLayers(nn.Module):
    """The convolutions, under the original's names, and the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        channels = WIDTHS[0]
        for layer, width in enumerate(WIDTHS):
            block = BasicBlock(channels, width, stride=1 if layer == 0 else 2)
            setattr(self, f"layer{layer + 1}", nn.Sequential(block))
            channels = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(images)))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return h.mean((2, 3))


class ResNet10(CodeBackbone):
    """One code of 512 a picture, of any size from 8 on; the only encoder with batch statistics."""

    within = "encoder."  # of a PDAE

    def __init__(
        self,
        image_size: int,
        *,
        segments: Parts = None,
        name: str = "resnet10",
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.encoder = ResNetLayers()
        self.name_blocks(WIDTHS[-1], segments)
        self.load(checkpoint)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch code"]:
        """One code a picture."""
        self.check_pictures(images)
        return self.encoder(images.to(self.encoder.conv1.weight.dtype))

    def codes(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch code"]:
        """One code a picture."""
        return self(images)
