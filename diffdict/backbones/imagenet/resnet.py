"""ResNets (He et al. 2016) as torchvision builds and names them, without their classifier.

torch.compile traces all of this, which a run-time type checker would interrupt: no_type_check.
"""

from collections.abc import Iterator, Sequence
from typing import no_type_check

from torch import Tensor, nn

from diffdict.errors import UserError

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # of each layer, by depth
EXPANSION = 4  # a block's output is so many times as wide as its 3×3 convolution


@no_type_check
class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions plus the input; the 3×3 one has the stride (v1.5)."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int, skip: bool) -> None:
        """`skip` projects the input, to another width or size."""
        super().__init__()
        out = EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if skip:
            projection = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return self.relu(h + (x if self.downsample is None else self.downsample(x)))


@no_type_check
class ResNet(nn.Module):
    """The convolutions of a ResNet, `width` times as wide as the published one, stem and all."""

    def __init__(
        self, depth: int = 50, width: int | float = 1, dilate: Sequence[bool] = (False,) * 3
    ) -> None:
        """`dilate` says for layer2, 3 and 4 whether they spread their taps and keep the size."""
        super().__init__()
        if depth not in BLOCKS:
            raise UserError(f"A ResNet's depth is {' or '.join(map(str, BLOCKS))}, got {depth}")
        if width <= 0 or (64 * width) % 1:
            raise UserError(f"A ResNet's width is a multiple of 1/64, got {width}: give width=1")
        first = int(64 * width)
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, dilation = first, 1
        for layer, (count, spread) in enumerate(zip(BLOCKS[depth], (False, *dilate), strict=True)):
            width, stride = first * 2**layer, 1 if layer == 0 else 2
            blocks = nn.Sequential()
            for i in range(count):
                step = stride if i == 0 and not spread else 1
                blocks.append(Bottleneck(channels, width, step, dilation, skip=i == 0))
                channels = EXPANSION * width
                if spread and i == 0:
                    dilation *= stride  # the first block still has the layer before's
            setattr(self, f"layer{layer + 1}", blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, images: Tensor) -> Tensor:
        """What comes before the first block: a quarter of the size."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def blocks(self) -> Iterator[tuple[str, Bottleneck]]:
        """Every block by name, layer1.0 first."""
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            for i, block in enumerate(getattr(self, layer)):
                yield f"{layer}.{i}", block

    def forward(self, images: Tensor) -> Tensor:
        """The last block's map."""
        x = self.stem(images)
        for _, block in self.blocks():
            x = block(x)
        return x
