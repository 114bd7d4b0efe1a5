"""Guided-diffusion's U-Net (Dhariwal & Nichol 2021): its flags, its state dicts, its features."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.backbones.base import Block, Timestep
from diffdict.backbones.denoiser import Condition, Denoiser, Edits, Given, edited
from diffdict.backbones.guided_layers import (
    GROUPS,
    Attention,
    Downsample,
    GroupNorm,
    Layers,
    ResBlock,
    Twice,
    Upsample,
    WideLinear,
    timestep_embedding,
    zeroed,
)
from diffdict.diffusion.schedules import make_schedule
from diffdict.errors import UserError

CHANNEL_MULT = {  # what an empty channel_mult means, by image size
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
Numbers = str | int | Sequence[int | float]  # guided-diffusion's comma string, or a list
NUM_CLASSES = 1000  # ImageNet's: the only class-conditional models that were released


class GuidedFlags(NamedTuple):
    """The architecture in the form in which the layers need it."""

    image_size: int
    num_channels: int
    num_res_blocks: int
    channel_mult: tuple[int | float, ...]
    attention_sizes: frozenset[int]  # downsampling factors at which a block attends
    num_heads: int
    num_head_channels: int
    num_heads_upsample: int
    resblock_updown: bool
    use_scale_shift_norm: bool
    use_new_attention_order: bool
    dropout: int | float

    @property
    def embedding(self) -> int:
        """The width of the time embedding."""
        return 4 * self.num_channels

    def channels(self, level: int) -> int:
        """The width of a level; 0 is the one at full size."""
        return int(self.channel_mult[level] * self.num_channels)

    def attention(self, channels: int, heads: int) -> Attention:
        """An attention layer with its heads counted or measured, as the flags say."""
        if self.num_head_channels != -1:
            heads = channels // self.num_head_channels
            if heads * self.num_head_channels != channels:
                raise UserError(
                    f"num_head_channels must divide every attending width,"
                    f" got {self.num_head_channels} for {channels} channels"
                )
        if heads < 1 or channels % heads:
            raise UserError(
                f"num_heads must divide every attending width, got {heads} for {channels} channels"
            )
        return Attention(channels, heads, self.use_new_attention_order)

    def residual(
        self, channels: int, out_channels: int, resample: nn.Module | None = None
    ) -> ResBlock:
        """A residual block, its map halved or doubled on the way if told."""
        return ResBlock(
            channels,
            out_channels,
            self.embedding,
            self.use_scale_shift_norm,
            self.dropout,
            resample,
        )

    def down(self, channels: int) -> nn.Module:
        """The last layer of a level on the way down."""
        if self.resblock_updown:
            return self.residual(channels, channels, nn.AvgPool2d(2))
        return Downsample(channels)

    def up(self, channels: int) -> nn.Module:
        """The last layer of a level on the way up."""
        if self.resblock_updown:
            return self.residual(channels, channels, Twice())
        return Upsample(channels)


class GuidedUNet(Denoiser):
    """Guided-diffusion's U-Net by its own flags; blocks are its output blocks, 0 the deepest."""

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: Numbers = "",
        attention_resolutions: Numbers = "16",
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        resblock_updown: bool = False,
        use_scale_shift_norm: bool = False,
        use_new_attention_order: bool = False,
        learn_sigma: bool = False,
        class_cond: bool = False,
        dropout: int | float = 0.0,
        *,
        diffusion_steps: int = 1000,
        noise_schedule: str = "linear",
        rescale_timesteps: bool = False,
        use_checkpoint: bool = False,
        predict: str = "eps",
        name: str = "guided_unet",
        checkpoint: str | None = None,
    ) -> None:
        """`predict` says what the output is (eps, x0 or v), for objectives and samplers to ask."""
        super().__init__()
        self.name = name
        self.predict = predict
        self.image_size = image_size
        self.process = make_schedule(noise_schedule, diffusion_steps)
        self.condition = Condition(classes=NUM_CLASSES if class_cond else None)
        self.noise_schedule = noise_schedule
        self.rescale_timesteps = rescale_timesteps
        self.learn_sigma = learn_sigma
        self.flags = GuidedFlags(
            image_size,
            num_channels,
            num_res_blocks,
            widths(channel_mult, image_size),
            frozenset(image_size // size for size in numbers(attention_resolutions)),
            num_heads,
            num_head_channels,
            num_heads if num_heads_upsample == -1 else num_heads_upsample,
            resblock_updown,
            use_scale_shift_norm,
            use_new_attention_order,
            dropout,
        )
        self._check_flags()
        self._build_layers(learn_sigma)
        for layers in (*self.input_blocks, self.middle_block, *self.output_blocks):
            layers.recompute = use_checkpoint
        self.load(checkpoint)

    @property
    def settings(self) -> dict[str, bool | int | float | str | list]:
        """The constructor's arguments, in plain values: a checkpoint that holds it keeps them."""
        flags = self.flags._asdict()
        factors = flags.pop("attention_sizes")
        return {
            **flags,
            "channel_mult": list(flags["channel_mult"]),
            "attention_resolutions": sorted(flags["image_size"] // factor for factor in factors),
            "learn_sigma": self.learn_sigma,
            "class_cond": self.condition.classes is not None,
            "diffusion_steps": self.num_timesteps,
            "noise_schedule": self.noise_schedule,
            "rescale_timesteps": self.rescale_timesteps,
            "predict": self.predict,
        }

    def _check_flags(self) -> None:
        """The sizes and widths that the architecture cannot have."""
        flags, smallest = self.flags, 2 ** (len(self.flags.channel_mult) - 1)
        if flags.image_size % smallest:
            raise UserError(
                f"{len(flags.channel_mult)} levels of channel_mult need an image_size divisible by"
                f" {smallest}, got {flags.image_size}"
            )
        if flags.num_res_blocks < 1 or not 0 <= flags.dropout < 1:
            raise UserError(
                "num_res_blocks is 1 or more and dropout lies in [0, 1), got "
                f"{flags.num_res_blocks} and {flags.dropout}: 2 and 0.0 are usual"
            )
        for level in range(len(flags.channel_mult)):
            if flags.channels(level) < 1 or flags.channels(level) % GROUPS:
                raise UserError(
                    f"num_channels × channel_mult must be a multiple of {GROUPS} at every level,"
                    f" got {flags.channels(level)} at level {level}"
                )

    def _build_layers(self, learn_sigma: bool) -> None:
        """All layers, in the original's order, so that a seed makes the original's weights."""
        flags = self.flags
        self.time_embed = nn.Sequential(
            WideLinear(flags.num_channels, flags.embedding),
            nn.SiLU(),
            WideLinear(flags.embedding, flags.embedding),
        )
        if self.condition.classes is not None:
            self.label_emb = nn.Embedding(self.condition.classes, flags.embedding)
        skips = self._build_input()
        channels = skips[-1]
        self.middle_block = Layers(
            flags.residual(channels, channels),
            flags.attention(channels, flags.num_heads),
            flags.residual(channels, channels),
        )
        self._build_output(channels, skips)
        first = flags.channels(0)
        self.out = nn.Sequential(
            GroupNorm(GROUPS, first),
            nn.SiLU(),
            zeroed(nn.Conv2d(first, 6 if learn_sigma else 3, 3, padding=1)),
        )

    def _build_input(self) -> list[int]:
        """The way down; the channels of each skip."""
        flags, factor = self.flags, 1
        skips = [flags.channels(0)]
        self.input_blocks = nn.ModuleList([Layers(nn.Conv2d(3, skips[0], 3, padding=1))])
        for level in range(len(flags.channel_mult)):
            for _ in range(flags.num_res_blocks):
                layers = [flags.residual(skips[-1], flags.channels(level))]
                if factor in flags.attention_sizes:
                    layers.append(flags.attention(flags.channels(level), flags.num_heads))
                self.input_blocks.append(Layers(*layers))
                skips.append(flags.channels(level))
            if level + 1 < len(flags.channel_mult):
                self.input_blocks.append(Layers(flags.down(skips[-1])))
                skips.append(skips[-1])
                factor *= 2
        return skips

    def _build_output(self, channels: int, skips: list[int]) -> None:
        """The way up: the blocks whose maps are the features, and their shapes."""
        flags, factor = self.flags, 2 ** (len(self.flags.channel_mult) - 1)
        self.output_blocks, self.shapes = nn.ModuleList(), {}
        for level in reversed(range(len(flags.channel_mult))):
            for i in range(flags.num_res_blocks + 1):
                layers = [flags.residual(channels + skips.pop(), flags.channels(level))]
                channels = flags.channels(level)
                if factor in flags.attention_sizes:
                    layers.append(flags.attention(channels, flags.num_heads_upsample))
                if level and i == flags.num_res_blocks:
                    layers.append(flags.up(channels))
                    factor //= 2
                size = flags.image_size // factor
                self.shapes[len(self.output_blocks)] = (channels, size, size)
                self.output_blocks.append(Layers(*layers))

    @no_type_check
    def forward(
        self,
        x_t: Float[Tensor, "batch 3 height width"],
        t: Int[Tensor, "batch"],
        given: Given | Tensor | None = None,
        edits: Edits | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """The network's prediction at timesteps t: 3 channels, or 6 with learn_sigma."""
        edits = self.check_edits(edits)
        return self.way_up(*self.way_down(x_t, t, given), t, edits).to(x_t.dtype)

    @no_type_check
    def forward_each(
        self,
        x_t: Tensor,
        t: Tensor,
        given: Given | Tensor | None = None,
        edits: Sequence[Edits | None] = (),
    ) -> list[Tensor]:
        """The prediction under each of several edits; the map of the first edited block and all
        below are made once."""
        edits = [self.check_edits(each) for each in edits]
        first = min((block for each in edits for block in each), default=len(self.output_blocks))
        skips, embedding = self.way_down(x_t, t, given)
        h = self.middle_block(skips[-1], embedding)
        for block in self.output_blocks[: first + 1]:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        ends = []
        for each in edits:
            branch = edited(each[first], h, t, first) if first in each else h
            ends.append(self._way_up_from(first + 1, branch, list(skips), embedding, t, each))
        return [end.to(x_t.dtype) for end in ends]

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: Timestep = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Output blocks of one pass over images noised to the timestep (Baranchuk et al. 2022)."""
        wanted = self.chosen(blocks)
        h, skips, embedding = self._encode(*self.noised(images, timestep, noise), None)
        maps: dict[Block, Tensor] = {}
        for block in range(wanted[-1] + 1):
            h = self.output_blocks[block](torch.cat([h, skips.pop()], dim=1), embedding)
            if block in wanted:
                maps[block] = h
        return maps

    @no_type_check
    def _encode(
        self, x_t: Tensor, t: Tensor, given: Given | Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Middle block, skips (the last one is used first) and the embedding of time and label."""
        skips, embedding = self.way_down(x_t, t, given)
        return self.middle_block(skips[-1], embedding), skips, embedding

    @no_type_check
    def way_down(
        self, x_t: Tensor, t: Tensor, given: Given | Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """The map of every input block, and the embedding of time and label."""
        given = self.check_given(given)
        self._check_size(x_t)
        embedding = self.embedding(t, given)
        h = x_t.to(self.input_blocks[0][0].weight.dtype)
        skips = []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        return skips, embedding

    @no_type_check
    def embedding(self, t: Tensor, given: Given) -> Tensor:
        """What every residual block is told: the time, and what the network is given."""
        if self.rescale_timesteps:
            t = t.float() * (1000.0 / self.num_timesteps)
        embedding = self.time_embed(timestep_embedding(t, self.flags.num_channels))
        return embedding if given.label is None else embedding + self.label_emb(given.label)

    @no_type_check
    def way_up(
        self,
        skips: list[Tensor],
        embedding: Tensor,
        t: Tensor | None = None,
        edits: Edits = MappingProxyType({}),
    ) -> Tensor:
        """The prediction from the maps of the input blocks, which are used up."""
        h = self.middle_block(skips[-1], embedding)
        return self._way_up_from(0, h, skips, embedding, t, edits)

    @no_type_check
    def _way_up_from(
        self, first: int, h: Tensor, skips: list[Tensor], embedding: Tensor, t: Tensor, edits: Edits
    ) -> Tensor:
        """The rest of the way up, from the map that goes into output block `first`."""
        for number, block in enumerate(self.output_blocks[first:], first):
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            if number in edits:
                h = edited(edits[number], h, t, number)
        return self.out(h.to(self.out[2].weight.dtype))

    @no_type_check
    def _check_size(self, x_t: Tensor) -> None:
        smallest = 2 ** (len(self.flags.channel_mult) - 1)
        if x_t.shape[2] % smallest or x_t.shape[3] % smallest:
            raise UserError(
                f"{self.name} takes pictures whose sides are divisible by {smallest},"
                f" got {x_t.shape[2]}×{x_t.shape[3]}: resize or crop them"
            )


def widths(channel_mult: Numbers, image_size: int) -> tuple[int | float, ...]:
    """The multiplier of each level; guided-diffusion's own table where none are given."""
    given = numbers(channel_mult)
    if not given and image_size not in CHANNEL_MULT:
        raise UserError(
            f"An empty channel_mult is known for image_size {sorted(CHANNEL_MULT)}, got"
            f' {image_size}: give channel_mult="1,2,2" or the like'
        )
    return given or CHANNEL_MULT[image_size]


def numbers(flag: Numbers) -> tuple[int | float, ...]:
    """A flag's numbers, from guided-diffusion's comma string, a list, or a single number."""
    if isinstance(flag, int):
        return (flag,)
    if not isinstance(flag, str):
        return tuple(flag)
    try:
        given = [float(number) for number in flag.split(",") if number.strip()]
    except ValueError:
        raise UserError(f'A list flag is numbers and commas ("32,16,8"), got {flag!r}') from None
    return tuple(int(number) if number.is_integer() else number for number in given)
