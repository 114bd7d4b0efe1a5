"""What sets one family of diffusers' networks apart from another, and what all of them share."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffdict.backbones.base import Block
from diffdict.backbones.hub.prompt import Prompt
from diffdict.errors import UserError

# the layers that people name, and the lists that they stand in
BLOCK = re.compile(
    r"(?:down_blocks|up_blocks|transformer_blocks|single_transformer_blocks)\.\d+|mid_block"
)
INSIDE = re.compile(
    r"(?:\.(?:resnets|attentions|downsamplers|upsamplers|transformer_blocks)\.\d+)*"
)
NEEDS = "backbone=hub needs diffusers, which is not here: pip install 'diffdict[diffusers]'"


class Setting(NamedTuple):
    """What a network is told beside x_t and t."""

    prompt: Prompt | None = None  # a row, or one a picture
    label: Tensor | None = None  # of class-conditional networks
    side: int = 0  # of the pictures, in pixels
    guidance: float = 1.0  # of networks that were distilled to be told it


class Family(ABC):
    """Of networks with one forward; a subclass says what its own takes and answers.

    `config` is the config.json beside the weights.
    """

    of = ""  # the class in diffusers that it reads
    component = "transformer"  # what a pipeline calls the network, and its folder
    latent = True  # whether it looks at the latents of an autoencoder
    cross = ""  # how a layer ends that attends from the picture to the text
    modulated = ""  # the layer of a block that is given its input normed, and moved by the timestep
    tokenizers: tuple[str, ...] = ()  # whose tokens a prompt's states are, one after the other

    def __init__(self, config: Mapping) -> None:
        self.config = config

    @property
    def kind(self) -> str:
        """The class in diffusers."""
        return self.config["_class_name"]

    @property
    def channels(self) -> int:
        """Of what is noised."""
        return self.config["in_channels"]

    @property
    def divisor(self) -> int:
        """What the sides of x_t are divisible by: a patch, or all halvings."""
        return self.config["patch_size"]

    @property
    def native_size(self) -> int | None:
        """The side of x_t that it was made for; None: none in particular."""
        return self.config.get("sample_size")

    @property
    def text(self) -> int | None:
        """The width of a prompt's states; None: it is told no text."""
        return None

    @property
    def pooled(self) -> int | None:
        """The width of a prompt's one vector; None: it takes none."""
        return None

    @property
    def classes(self) -> int | None:
        """How many classes it knows; None: it is told none."""
        return None

    def refusal(self) -> str | None:
        """Why this network cannot look at pictures, in the words that follow its folder."""
        return None

    def made(self) -> nn.Module:
        """The network of this config, its weights fresh."""
        return diffusers_class(self.kind).from_config(self.config)

    def blocks(self, network: nn.Module) -> dict[Block, nn.Module]:
        """Its blocks by the names that diffusers' users know, and the layers inside them."""
        return {
            name: module
            for name, module in network.named_modules()
            if (top := BLOCK.match(name)) and INSIDE.fullmatch(name, top.end())
        }

    def outer(self, block: Block) -> bool:
        """Whether it is one of the usual blocks, not a layer inside one."""
        return isinstance(block, int) or BLOCK.fullmatch(block) is not None

    @abstractmethod
    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """What its forward takes for x_t at timesteps t."""

    def prediction(self, output: Tensor, x_t: Tensor) -> Tensor:
        """Its answer in the layout of x_t."""
        return output

    def guided(self, own: Tensor, away: Tensor, weight: float) -> Tensor:
        """A prediction, led away from another one."""
        return away + weight * (own - away)

    def encode(self, pipeline: object, text: str | None) -> Prompt:
        """A text by the pipeline's own encoders; None: what it guides away from unless told."""
        raise UserError(f"A {self.kind} is told no text: leave backbone.prompt= out")

    def read_text(self, text: str) -> str:
        """A text as its tokenizers are given it."""
        return text

    def attends(self, keys: int, places: int) -> tuple[slice, slice]:
        """In a layer that reads the text: which queries are places, and which keys are the text."""
        return slice(None), slice(None)

    def set_steps(self, scheduler: object, steps: int, shape: Sequence[int]) -> None:
        """A scheduler's stops as the family's pipeline sets them for x of this shape."""
        if scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, mu=shift_for(scheduler.config, self._tokens(shape)))
        else:
            scheduler.set_timesteps(steps)

    def _tokens(self, shape: Sequence[int]) -> int:
        return math.prod(side // self.divisor for side in shape[2:])

    def grid(self, tokens: int, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the picture's tokens in x_t of this size."""
        return size[0] // self.divisor, size[1] // self.divisor

    def as_map(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """A map as it is; the picture's tokens at their places, a text's before them left out."""
        if x.ndim == 4:
            return x
        height, width = self.grid(x.shape[1], size)
        return x[:, -height * width :].mT.unflatten(2, (height, width))

    def as_tokens(self, changed: Tensor, x: Tensor) -> Tensor:
        """A changed map in the layout of what it was made of."""
        if x.ndim == 4:
            return changed
        tokens = changed.flatten(2).mT
        return torch.cat([x[:, : x.shape[1] - tokens.shape[1]], tokens], dim=1)


def rows(x: Tensor, like: Tensor) -> Tensor:
    """A row a picture: one for all is repeated; in the pictures' dtype, on their device."""
    x = x.to(like.device)
    x = x.to(like.dtype) if x.is_floating_point() else x
    return x.expand(len(like), *x.shape[1:])


def diffusers_class(name: str) -> type:
    """A class of diffusers by its name."""
    try:
        import diffusers
    except ImportError as error:
        raise UserError(NEEDS) from error
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise UserError(
            f"diffusers {diffusers.__version__} has no {name}: pip install --upgrade diffusers"
        )
    return kind


def shift_for(config: Mapping, tokens: int) -> float:
    """The shift of a flow's stops, on a line through those of small and large pictures."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return low + (high - low) * (tokens - few) / (many - few)


def halvings(config: Mapping) -> int:
    """What sides must be divisible by to be halved at every level of a U-Net."""
    return 2 ** (len(config.get("block_out_channels") or [0]) - 1)


def as_batch(t: Tensor, like: Tensor) -> Tensor:
    """Timesteps once a picture, on the pictures' device."""
    return t.to(like.device).expand(len(like))


def shares(t: Tensor, like: Tensor) -> Tensor:
    """Timesteps as the share of noise, t / 1000."""
    return (as_batch(t, like).to(torch.float32) / 1000).to(like.dtype)
