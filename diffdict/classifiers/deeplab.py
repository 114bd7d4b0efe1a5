"""DeepLabV3 (Chen et al. 2017): a ResNet, dilated, under a pyramid of convolutions."""

from typing import NamedTuple, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.imagenet.resnet import ResNet

RATES = (12, 24, 36)  # how far apart the taps of the pyramid's 3×3 convolutions stand
WIDTH = 256  # of every branch, and of what they become together


class Logits(NamedTuple):
    """What the heads say of every pixel."""

    classes: Float[Tensor, "batch classes height width"]
    auxiliary: Float[Tensor, "batch classes height width"] | None  # helps layer3 learn; else unused


class DeepLabV3(nn.Module):
    """A dilated ResNet, an atrous pyramid, and a classifier; torchvision's names for the weights.

    Pictures have ImageNet's mean and deviation, and any size.
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 21,
        auxiliary: bool = False,
        width: int | float = 1,
    ) -> None:
        """`width` is the ResNet's: a quarter learns in a sixteenth of the time."""
        super().__init__()
        self.backbone = ResNet(depth, width, dilate=(False, True, True))
        middle, last = (int(channels * width) for channels in (1024, 2048))
        self.classifier = nn.Sequential(
            Pyramid(last),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, num_classes, 1),
        )
        self.aux_classifier = None
        if auxiliary:
            inner = middle // 4
            self.aux_classifier = nn.Sequential(
                nn.Conv2d(middle, inner, 3, padding=1, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Conv2d(inner, num_classes, 1),
            )

    @no_type_check
    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes height width"]:
        """The logits of every pixel, at the pictures' own size."""
        return self.both(images).classes

    @no_type_check
    def both(self, images: Float[Tensor, "batch 3 height width"]) -> Logits:
        """The logits of both heads, for training; the auxiliary one's only where it is."""
        x, auxiliary = self.backbone.stem(images), None
        for name, block in self.backbone.blocks():
            if name == "layer4.0" and self.aux_classifier is not None:
                auxiliary = _enlarged(self.aux_classifier(x), images)
            x = block(x)
        return Logits(_enlarged(self.classifier(x), images), auxiliary)


@no_type_check
class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: one map seen at five reaches, the widest its mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_branch(nn.Conv2d(channels, WIDTH, 1, bias=False))])
        for rate in RATES:
            spread = nn.Conv2d(channels, WIDTH, 3, padding=rate, dilation=rate, bias=False)
            self.convs.append(_branch(spread))
        mean = _branch(nn.Conv2d(channels, WIDTH, 1, bias=False))
        self.convs.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), *mean))
        together = nn.Conv2d(len(self.convs) * WIDTH, WIDTH, 1, bias=False)
        self.project = nn.Sequential(*_branch(together), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        *near, mean = self.convs
        far = mean(x).expand(-1, -1, *x.shape[2:])  # a single value enlarged is that value
        return self.project(torch.cat([*(conv(x) for conv in near), far], dim=1))


@no_type_check
def _branch(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())


@no_type_check
def _enlarged(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
