"""A labeller that judges what was drawn, and what it has counted of every change and control."""

from collections.abc import Callable, Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.metrics.effects import EffectCounts, Effects, large_enough
from diffdict.tasks.labeller import PictureLabeller

Opener = Callable[[Backbone], PictureLabeller]
NEAR = 16  # a region's margin is the side over this


class Judge(nn.Module):
    """Counts in the regions that it sees itself, or in true masks where there are some."""

    def __init__(self, labeller: PictureLabeller, changes: int, kinds: Sequence[str]) -> None:
        super().__init__()
        self.labeller, self.class_names = labeller, list(labeller.segmenter.class_names)
        margin, classes = labeller.image_size // NEAR, len(self.class_names)
        self.measured = nn.ModuleList(
            nn.ModuleDict({kind: Effects(classes, margin) for kind in kinds})
            for _ in range(changes)
        )
        self.found: list[dict[str, EffectCounts]] = []

    def reset(self) -> None:
        """Begins anew."""
        for metrics in self.measured:
            for metric in metrics.values():
                metric.reset()

    def labels(self, images: Tensor, indices: list[int]) -> Int[Tensor, "batch h w"]:
        """What it says of these pictures in [-1, 1]."""
        return self.labeller(images, indices).masks

    def count(self, place: int, kind: str, before: "JudgedPictures", on: Tensor) -> None:
        """One change under one control: the pictures as they have become."""
        change = (on - before.off).square().mean(1)
        after = self.labels(on, before.indices)
        self.measured[place][kind].update(before.labels, after, before.region, change)

    def compute(self) -> None:
        """The counts of everything seen, on all ranks."""
        self.found = [{k: m.compute() for k, m in each.items()} for each in self.measured]


class JudgedPictures:
    """Plain pictures, one judge's labels of them, and where a class is."""

    def __init__(
        self,
        indices: list[int],
        off: Float[Tensor, "batch 3 h w"],
        labels: Int[Tensor, "batch h w"],
        region: Bool[Tensor, "batch h w"],
    ) -> None:
        self.indices, self.off, self.labels, self.region = indices, off, labels, region

    def some(self, places: list[int]) -> "JudgedPictures":
        """Those at these places."""
        indices = [self.indices[i] for i in places]
        return JudgedPictures(indices, self.off[places], self.labels[places], self.region[places])

    @property
    def shows(self) -> list[int]:
        """The places of pictures that show the class."""
        return large_enough(self.region).nonzero()[:, 0].tolist()


def open_judges(
    labeller: Opener | Sequence[Opener] | None, net: Backbone, task: str
) -> list[PictureLabeller]:
    """The labellers at work, where they look at pictures of the network's size and agree on
    classes."""
    openers = list(labeller) if isinstance(labeller, Sequence) else [labeller]
    opened = [check_labeller(each, net, task) for each in openers]
    names = [list(one.segmenter.class_names) for one in opened]
    if other := next((classes for classes in names[1:] if classes != names[0]), None):
        raise UserError(
            f"The labellers have classes of their own: {', '.join(names[0])}, and "
            f"{', '.join(other)}: learn both from one set"
        )
    return opened


def check_labeller(labeller: Opener | None, net: Backbone, task: str) -> PictureLabeller:
    """The labeller at work, where it looks at pictures of the network's size."""
    if labeller is None:
        raise UserError(
            f"{task} labels what was drawn: labeller=outputs/…/last.ckpt, a run of "
            "task=pixel_mlp or task=deeplab"
        )
    opened = labeller(net)
    if opened.image_size != net.image_size:
        raise UserError(
            f"The labeller learned from pictures of {opened.image_size}×{opened.image_size}, "
            f"{net.name} draws {net.image_size}×{net.image_size}: learn one with "
            f"dataset.image_size={net.image_size}"
        )
    return opened
