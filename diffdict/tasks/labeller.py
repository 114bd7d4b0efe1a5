"""Finished segmenters at work: labels for pictures that lie in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from diffdict import checkpoints, files
from diffdict.backbones.base import Backbone
from diffdict.bilinear.maps import NativeMaps
from diffdict.checkpoints.read import read
from diffdict.errors import UserError
from diffdict.features.locations import Blocks, Timesteps
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.pixels.codes import CodedMaps
from diffdict.features.store.shards import TORCH
from diffdict.metrics.segmentation import top_tenth
from diffdict.sae.card import check_tokens
from diffdict.sae.load import load_dictionary
from diffdict.tasks.deeplab import DeepLab
from diffdict.tasks.pixel_mlp import PixelMLP

AT_ONCE = 8  # pictures whose maps are in memory together


class PictureLabels(NamedTuple):
    """What the ensemble makes of some pictures."""

    masks: Int64[Tensor, "batch height width"]
    doubt: Float[Tensor, "batch height width"]  # how far the members disagree
    scores: Float[Tensor, " batch"]  # a picture's uncertainty: its most doubtful tenth


class PictureLabeller(nn.Module):
    """What labels pictures that lie in memory; the constructor of a subclass sets these."""

    segmenter: nn.Module  # says its class_names
    image_size: int  # of the pictures that it learned from
    ignore_label: int | None  # what it never learned
    identity: dict[str, object]  # all that changes a label

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], indices: list[int]
    ) -> PictureLabels:
        """Labels of these pictures in [-1, 1]; an index is what its own noise is drawn for."""
        raise NotImplementedError


class Labeller(PictureLabeller):
    """Looks through the backbone that the ensemble learned from, as it was looked then."""

    def __init__(
        self,
        segmenter: PixelMLP,
        net: Backbone,
        timestep: Timesteps,
        block: Blocks,
        noise: Mapping | None = None,
        *,
        dtype: str = "fp16",
        compute: str = "fp32",
        sae: str | None = None,
        image_size: int,
        backbone_sha256: str | None = None,
        source: str = "",
    ) -> None:
        """`dtype` is that of the maps, `compute` of the network's matrix products; `sae`: a
        dictionary's export, run or checkpoint, whose codes stand for the features.

        `image_size` and `backbone_sha256`: of what was learned from; other weights are refused.
        `source` tells one ensemble from another.
        """
        super().__init__()
        if backbone_sha256 not in (None, net.sha256):
            raise UserError(
                f"The labeller learned from {net.name} with the weights {backbone_sha256[:12]}…, "
                f"the ones here are {net.sha256[:12]}…: put the right ones in their place"
            )
        self.segmenter = segmenter.requires_grad_(False).eval()
        self.passes = Passes(net, timestep, block, Noise(**(noise or {})), compute)
        self.net, self.dtype = self.passes.net, TORCH[dtype]
        self.image_size, self.source = image_size, source
        self.codes = sae
        self.sae = None if sae is None else load_dictionary(sae).sae.eval().requires_grad_(False)

    @property
    def ignore_label(self) -> int | None:
        """What the ensemble never learned."""
        return self.segmenter.metrics["majority"].ignore_label

    @property
    def identity(self) -> dict[str, object]:
        """All that changes a label."""
        return {
            "labeller": self.source,
            "labels_by": self.net.name,
            "labels_sha256": self.net.sha256,
            "timestep": self.passes.timesteps,
            "block": self.passes.blocks,
            "noise": self.passes.noise.facts(),
            "maps": f"{self.dtype} of {self.passes.compute}",
            "codes": self.codes,
            "vote": self.segmenter.vote,
        }

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "batch 3 height width"], indices: list[int]
    ) -> PictureLabels:
        """Labels of these pictures in [-1, 1]; an index is what its own noise is drawn for."""
        predictions = []
        for start in range(0, len(images), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            held = self._see(images[part], indices[part])
            for maps in (held.picture(i) for i in range(len(held))):
                features = maps if self.sae is None else CodedMaps(maps, self.sae)
                predictions.append(self.segmenter.predict(features))
        doubt = torch.stack([one.uncertainty for one in predictions])
        masks = torch.stack([self.segmenter.labels(one) for one in predictions])
        return PictureLabels(masks, doubt, torch.stack([top_tenth(one) for one in doubt]))

    def _see(self, images: Float[Tensor, "batch 3 height width"], indices: list[int]) -> NativeMaps:
        """Every map at its own resolution: timestep by timestep, block by block."""
        maps = list(self.passes.maps(images, indices).values())
        return NativeMaps.of(maps, (images.shape[2], images.shape[3]), self.dtype)


class NetworkLabeller(PictureLabeller):
    """DeepLabV3 at work: it looks at pixels alone, and through no network that draws."""

    def __init__(self, segmenter: DeepLab, image_size: int, source: str = "") -> None:
        """`source` tells one network from another."""
        super().__init__()
        self.segmenter = segmenter.requires_grad_(False).eval()
        self.image_size, self.source = image_size, source

    @property
    def ignore_label(self) -> int | None:
        """What the network never learned."""
        return self.segmenter.metric.ignore_label

    @property
    def identity(self) -> dict[str, object]:
        """All that changes a label."""
        return {"labeller": self.source, "labels_by": "deeplab"}

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "batch 3 height width"], indices: list[int]
    ) -> PictureLabels:
        """Labels of these pictures in [-1, 1]; its doubt is the entropy of what it says."""
        shares = torch.cat([self.segmenter.shares(part) for part in images.split(AT_ONCE)])
        doubt = torch.special.entr(shares).sum(1)
        scores = torch.stack([top_tenth(one) for one in doubt])
        return PictureLabels(shares.argmax(1), doubt, scores)


def open_deeplab(
    net: Backbone, checkpoint: str, *, depth: int, width: int | float, auxiliary: bool
) -> NetworkLabeller:
    """The network of a run of task=deeplab; it needs none of the one that draws."""
    facts = checkpoints.facts_of(checkpoint)
    settings = {key: facts[key] for key in ("num_classes", "class_names", "ignore_label")}
    shape = {"depth": depth, "width": width, "auxiliary": auxiliary}
    segmenter = checkpoints.restore(checkpoint, DeepLab(torch.optim.Adam, **settings, **shape))
    return NetworkLabeller(segmenter, facts["image_size"], files.sha256(checkpoint))


def open_labeller(
    net: Backbone,
    checkpoint: str,
    timestep: Timesteps,
    block: Blocks,
    noise: Mapping | None = None,
    *,
    backbone: Callable[[], Backbone] | None = None,
    dtype: str = "fp16",
    compute: str = "fp32",
    sae: str | None = None,
    vote: str = "majority",
) -> Labeller:
    """The segmenter of a run of task=pixel_mlp, which looks through `net` or its own backbone."""
    content, facts = read(Path(checkpoint))[0], checkpoints.facts_of(checkpoint)
    data = content.get("config", {}).get("data", {})
    check_tokens(data, {}, f"The labeller {checkpoint}")
    shape = {
        key: value for key, value in content["ensemble"].items() if key in ("members", "hidden")
    }
    settings = {key: facts[key] for key in ("d_in", "num_classes", "class_names", "ignore_label")}
    segmenter = PixelMLP(torch.optim.Adam, **settings, **shape, vote=vote)
    return Labeller(
        checkpoints.restore(checkpoint, segmenter),
        net if backbone is None else backbone(),
        timestep,
        block,
        noise,
        dtype=dtype,
        compute=compute,
        sae=sae,
        image_size=facts["image_size"],
        backbone_sha256=facts.get("backbone_sha256"),
        source=files.sha256(checkpoint),
    )
