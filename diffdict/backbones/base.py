"""What every backbone offers: named blocks of features, and where its weights came from."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict import checkpoints
from diffdict.errors import UserError

Block = int | str  # ints name the output blocks of a U-Net, strings those of anything else
Timestep = int | Int[Tensor, " batch"] | None  # one for all, or one a picture; None: it has none


class Backbone(nn.Module, ABC):
    """A network whose inner maps are features; the constructor of a subclass sets these."""

    name: str
    image_size: int  # side of the pictures that it was made for
    shapes: dict[Block, tuple[int, int, int]]  # channels, height, width by block, at image_size
    num_timesteps: int | None = None  # None: it has no timestep
    first_timestep: int = 0  # they are counted from here, the least noisy
    unused: tuple[str, ...] = ()  # how keys begin that its checkpoints hold and features never need
    captioned: bool = False  # whether it is told something of each picture, by the picture's name
    within: str = ""  # the prefix of its keys in checkpoints of a larger network

    def __init__(self) -> None:
        super().__init__()
        self._file_sha256: str | None = None
        self.register_load_state_dict_pre_hook(_drop_unused)
        self.register_load_state_dict_post_hook(_forget_file)

    @abstractmethod
    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: Timestep = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Native-resolution maps of the blocks (None: the usual ones), in the network's order.

        One pass that ends with the last block asked for, over images in [-1, 1]; `noise` is
        broadcast over them (None: fresh) and means nothing to a network without timesteps. Only
        denoising networks take a timestep a picture.
        """

    def load(self, checkpoint: str | None) -> None:
        """Weights from a released name or a file; None keeps the fresh ones."""
        if checkpoint is not None:
            self._file_sha256 = checkpoints.load_into(
                self, checkpoint, ignore=self.unused, within=self.within
            )

    @property
    def file_sha256(self) -> str | None:
        """Hash of the weights' file; None when they come from none."""
        return self._file_sha256

    @property
    def sha256(self) -> str:
        """Hash of the weights' file, or of the parameters themselves when they come from none."""
        return self.file_sha256 or weights_sha256(self)

    def noise_level(self, timestep: int | None) -> float | None:
        """The noise's deviation at a timestep for a signal of size 1; None where nobody says it."""
        return None

    def prepared(
        self, images: Float[Tensor, "batch _ height width"]
    ) -> Float[Tensor, "batch _ _ _"]:
        """Pictures as its passes begin with them, whatever the timestep: once for several passes.

        `features` takes them in place of the pictures.
        """
        return images

    @contextmanager
    def of_pictures(self, names: Sequence[str] | None) -> Iterator[None]:
        """Passes within are of the pictures of these names; few networks need to know."""
        yield

    def noise_shape(self, picture: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape of the noise for a picture of this shape."""
        return picture

    def chosen(self, blocks: Block | Sequence[Block] | None) -> list[Block]:
        """The blocks asked for, each once, in the network's order.

        "all" are all; so is None, unless the network is known for some of them.
        """
        if blocks in (None, "all", ["all"]):
            return list(self.shapes)
        names = ", ".join(map(str, self.shapes))
        blocks = [blocks] if isinstance(blocks, (int, str)) else blocks
        for block in blocks:
            if block not in self.shapes:
                raise UserError(f"{self.name} has no block {block!r}. Its blocks: {names}")
        if not blocks:
            raise UserError(f"No block of {self.name} was asked for. Its blocks: {names}")
        return [block for block in self.shapes if block in blocks]

    def check_timestep(self, timestep: int | None) -> None:
        """A diffusion network needs a timestep of its schedule, any other network None."""
        steps, first = self.num_timesteps, self.first_timestep
        if steps is None and timestep is not None:
            raise UserError(f"{self.name} has no timesteps, got timestep={timestep}: leave it out")
        if steps is not None and (timestep is None or timestep not in range(first, first + steps)):
            raise UserError(
                f"{self.name} needs a timestep between {first} and {first + steps - 1}, got "
                f"{timestep}: give another timestep="
            )


def weights_sha256(net: nn.Module) -> str:
    """Hash of the network's parameters and buffers, by their names."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def combined_sha256(*parts: str) -> str:
    """One hash of several, of networks that look through one another."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _drop_unused(backbone: Backbone, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """What the network has no place for, though its checkpoints rightly hold it."""
    for key in [key for key in state if key.startswith(prefix)]:
        if key.removeprefix(prefix).startswith(backbone.unused):
            del state[key]


def _forget_file(backbone: Backbone, _: object) -> None:
    """Weights loaded from elsewhere are no longer those of the file."""
    backbone._file_sha256 = None
