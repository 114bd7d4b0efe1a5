"""ResNet-50s of ImageNet and their projectors, from files as published: what RCDMs are told."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict import checkpoints
from diffdict.backbones.base import combined_sha256
from diffdict.backbones.imagenet.resnet import ResNet
from diffdict.backbones.imagenet.statistics import normalised
from diffdict.backbones.projectors import WIDTHS, make_projector
from diffdict.checkpoints.read import RefusedPickle
from diffdict.errors import UserError
from diffdict.representations.base import Representation

# where a file keeps the trunk and the head; the first that it has anything under is taken
TRUNKS = {
    "supervised": ("",),
    "simclr": ("trunk._feature_blocks.",),
    "barlow": ("trunk._feature_blocks.",),
    "vicreg": ("backbone.", ""),
    "dino": ("backbone.", ""),
    "swav": ("",),
}
HEADS = {
    "simclr": "heads.",
    "barlow": "heads.",
    "vicreg": "projector.",
    "dino": "head.",
    "swav": "projection_head.",
}
VISSL = ("simclr", "barlow")  # their files are pickles of its own classes
PARTS = ("trunk", "head")
UNUSED = ("fc.", "prototypes.", "projection_head.", "projector.", "head.")  # beside a bare trunk


class ResNetVector(Representation):
    """The mean over the last map, or what the projector makes of it, raw."""

    def __init__(
        self,
        kind: str,
        part: str = "trunk",
        checkpoint: str | None = None,
        *,
        image_size: int | None = 224,
        name: str | None = None,
    ) -> None:
        """`checkpoint`: a released name or a file in the published layout; None: fresh weights."""
        super().__init__()
        if kind not in TRUNKS:
            raise UserError(f"kind is one of {', '.join(TRUNKS)}, got {kind!r}")
        if part not in PARTS:
            raise UserError(f"part of {kind} is {' or '.join(PARTS)}, got {part!r}")
        if part == "head" and kind not in HEADS:
            raise UserError(f"{kind} has no head, its classifier is not used: part=trunk")
        self.kind, self.part, self.image_size = kind, part, image_size
        self.name = name or (f"{kind}_{part}" if kind in HEADS else kind)
        self.trunk = ResNet(50)
        self.head = make_projector(kind) if part == "head" else None
        self.load(checkpoint)
        self.freeze(2048 if part == "trunk" else WIDTHS[kind])

    def load(self, checkpoint: str | None) -> None:
        """The trunk, and the head where it is asked for; nothing stays as it was drawn."""
        if checkpoint is None:
            return
        state, path = self._read(checkpoint)
        trunk = self._trunk(state, path)
        checkpoints.load_strictly(self.trunk, _counted(self.trunk, trunk), path)
        if self.head is not None:
            head = below(state, HEADS[self.kind])
            head = {key: value for key, value in head.items() if not key.startswith("last_layer.")}
            if not head:
                raise UserError(
                    f"{path} holds no head of {self.kind} (nothing under {HEADS[self.kind]}): "
                    "representation.part=trunk, or the full checkpoint that its authors published"
                )
            checkpoints.load_strictly(self.head, _counted(self.head, head), path)

    @property
    def sha256(self) -> str:
        """Of the weights, and of what is taken from them."""
        return combined_sha256(super().sha256, self.kind, self.part, str(self.image_size))

    @torch.no_grad()
    def vectors(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The vector of every picture in [-1, 1]: as they are, but SwAV's in ImageNet's colours.

        The mean over the last map takes any side; what stores and conditions show is `image_size`.
        """
        images = normalised(images) if self.kind == "swav" else images
        pooled = self.trunk(images.to(self.trunk.conv1.weight.dtype)).mean((2, 3))
        return pooled if self.head is None else self.head(pooled)

    def _read(self, checkpoint: str) -> tuple[dict[str, Tensor], Path]:
        """The file's weights without what DataParallel put before their names."""
        try:
            weights = checkpoints.load_state_dict(checkpoint)
        except RefusedPickle as error:
            if self.kind not in VISSL:
                raise
            raise UserError(f"{error} {_where_vissl_is(checkpoint)}") from error
        self._file_sha256 = weights.sha256
        state = {key.removeprefix("module."): value for key, value in weights.state.items()}
        return state, weights.path

    def _trunk(self, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """The trunk under torchvision's names."""
        for prefix in TRUNKS[self.kind]:
            trunk = below(state, prefix)
            if not prefix:
                trunk = {k: x for k, x in trunk.items() if not k.startswith(UNUSED)}
            if "conv1.weight" in trunk:
                return trunk
        names = ", ".join(list(state)[:4])
        places = " or ".join(f"{prefix}conv1.weight" for prefix in TRUNKS[self.kind])
        raise UserError(
            f"{path} holds no trunk of {self.kind} ({places} is missing; its entries are {names}, "
            "…): choose the representation= that the file is of"
        )


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What lies under a prefix, without it."""
    return {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}


def _counted(net: torch.nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the counters of batch norms, which older files lack and nothing here reads."""
    ours = net.state_dict()
    counters = {k: x for k, x in ours.items() if k.endswith("num_batches_tracked")}
    return {**counters, **state}


def _where_vissl_is(checkpoint: str) -> str:
    """The one command that leaves trunk and heads as a plain file."""
    path = checkpoints.resolve(checkpoint)
    return (
        "Where VISSL is installed: python -c \"import torch; f='"
        f"{path}'; m=torch.load(f, map_location='cpu', weights_only=False)['classy_state_dict']"
        "['base_model']['model']; torch.save({'classy_state_dict': {'base_model': {'model': "
        "{k: dict(m[k]) for k in ('trunk', 'heads')}}}}, f + '.plain')\", then "
        f"representation.checkpoint={path}.plain"
    )
