"""DDAE's U-Net (Xiang et al. 2023): the original's flags, state dicts and features, DDPM or EDM."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict import checkpoints
from diffdict.backbones import ddae_layers as layers
from diffdict.backbones.base import Block, Timestep
from diffdict.backbones.denoiser import Denoiser, Edits, Given, edited
from diffdict.backbones.guided_layers import GROUPS, GroupNorm, Twice
from diffdict.diffusion.edm import Levels, Preconditioning, broadcast, preconditioning
from diffdict.diffusion.process import Process
from diffdict.diffusion.schedules import Schedule, gather, tables
from diffdict.errors import UserError

LAST_GROUPS = 8  # of the norm before the last convolution; all others have 32
PREDICTS = {"ddpm": ("eps", "x0", "v"), "edm": ("x0",)}  # by framework, the usual one first

VARIANCES = ("fixed_large", "fixed_small")
LEARNED = {"ddpm": ("n_T", "betas"), "edm": ("sigma_data",)}  # what weights of each hang on


class Flags(NamedTuple):
    """The architecture, in the original's words."""

    image_size: int
    n_channels: int
    ch_mults: tuple[int | float, ...]
    is_attn: tuple[bool, ...]
    attn_channels_per_head: int | None
    dropout: int | float
    n_blocks: int
    use_res_for_updown: bool
    augment_dim: int
    framework: str
    n_T: int
    betas: tuple[int | float, ...]
    sigma_data: int | float
    sigma_min: int | float
    sigma_max: int | float
    rho: int | float
    steps: int

    def channels(self, level: int) -> int:
        """The width of a level; 0 is the one at full size."""
        return int(self.ch_mults[level] * self.n_channels)

    def residual(
        self, channels: int, out_channels: int, resample: nn.Module | None = None
    ) -> layers.Residual:
        """A residual block, its map halved or doubled on the way if told."""
        return layers.Residual(channels, out_channels, 4 * self.n_channels, self.dropout, resample)

    def attention(self, channels: int) -> layers.TokenAttention:
        """An attention layer."""
        return layers.TokenAttention(channels, self.attn_channels_per_head)

    def block(self, channels: int, level: int) -> layers.LevelBlock:
        """A block of a level."""
        width = self.channels(level)
        attention = self.attention(width) if self.is_attn[level] else None
        return layers.LevelBlock(self.residual(channels, width), attention)

    def down(self, channels: int) -> nn.Module:
        """The last layer of a level on the way down."""
        if self.use_res_for_updown:
            return layers.ResidualResample(self.residual(channels, channels, nn.AvgPool2d(2)))
        return layers.Down(channels)

    def up(self, channels: int) -> nn.Module:
        """The last layer of a level on the way up."""
        if self.use_res_for_updown:
            return layers.ResidualResample(self.residual(channels, channels, Twice()))
        return layers.Up(channels)


class DdaeUnet(Denoiser):
    """DDAE's U-Net by its own flags; its blocks are 1, 2, … of the way up, 1 the deepest.

    Timesteps are the authors' own: 1 … n_T of a chain, 1 … steps of EDM's noise levels.
    """

    def __init__(
        self,
        image_size: int,
        n_channels: int = 128,
        ch_mults: Sequence[int | float] = (1, 2, 2, 2),
        is_attn: Sequence[bool] = (False, True, False, False),
        attn_channels_per_head: int | None = None,
        dropout: int | float = 0.1,
        n_blocks: int = 2,
        use_res_for_updown: bool = False,
        augment_dim: int = 0,
        framework: str = "ddpm",
        n_T: int = 1000,
        betas: Sequence[int | float] = (1e-4, 0.02),
        sigma_data: int | float = 0.5,
        sigma_min: int | float = 0.002,
        sigma_max: int | float = 80.0,
        rho: int | float = 7.0,
        steps: int = 18,
        *,
        predict: str | None = None,
        variance: str = "fixed_large",
        name: str = "ddae_unet",
        checkpoint: str | None = None,
    ) -> None:
        """`n_T` and `betas` belong to ddpm; sigma_…, `rho` and `steps` to edm.

        `predict` says what `forward` answers (eps, x0 or v); None: eps of ddpm, x0 of edm.
        `variance` is that of the ancestral step, which the network does not learn.
        """
        super().__init__()
        self.name, self.image_size, self.framework = name, image_size, framework
        self.predict, self.variance = checked_prediction(framework, predict), variance
        if variance not in VARIANCES:
            raise UserError(f"variance is one of {', '.join(VARIANCES)}, got {variance!r}")
        self.flags = Flags(
            image_size,
            n_channels,
            tuple(ch_mults),
            tuple(is_attn),
            attn_channels_per_head,
            dropout,
            n_blocks,
            use_res_for_updown,
            augment_dim,
            framework,
            n_T,
            tuple(betas),
            sigma_data,
            sigma_min,
            sigma_max,
            rho,
            steps,
        )
        check_flags(self.flags)
        self.process, self.augmentations = noising(self.flags), augment_dim
        self._build_layers()
        self.load(checkpoint)

    def load(self, checkpoint: str | None) -> None:
        """Weights from a released name or a file, unless that says another framework than ours."""
        if checkpoint is None:
            return
        weights = checkpoints.load_state_dict(checkpoint)
        self._check_framework(weights)
        checkpoints.load_strictly(self, weights.state, weights.path)
        self._file_sha256 = weights.sha256

    def _check_framework(self, weights: checkpoints.Weights) -> None:
        """Keys and shapes of both frameworks are the same: our files say theirs, others do not."""
        theirs = stated_flags(weights.facts)
        if "framework" not in theirs:
            print(f"{weights.path} does not say its framework: taken for {self.framework}")
            return
        ours = self.flags._asdict() | {"predict": self.predict}
        for key in ("framework", *LEARNED[self.framework], "predict"):
            value, other = plain(ours[key]), plain(theirs.get(key))
            if other is not None and other != value:
                raise UserError(
                    f"{weights.path} was learned with {key}={other}, this network has {value}: "
                    f"say backbone.{key}={other}"
                )

    def _build_layers(self) -> None:
        """All layers, in the original's order, so that a seed makes the original's weights."""
        flags, first = self.flags, self.flags.channels(0)
        self.image_proj = nn.Conv2d(3, flags.n_channels, 3, padding=1)
        self.time_emb = layers.TimeEmbedding(flags.n_channels, flags.augment_dim)
        skips = self._build_down()
        channels = skips[-1]
        self.middle = layers.Middle(
            flags.residual(channels, channels),
            flags.attention(channels),
            flags.residual(channels, channels),
        )
        self._build_up(channels, skips)
        self.norm = GroupNorm(LAST_GROUPS, first)
        self.final = nn.Conv2d(first, 3, 3, padding=1)

    def _build_down(self) -> list[int]:
        """The way down; the channels of each skip."""
        flags, levels = self.flags, len(self.flags.ch_mults)
        skips = [flags.n_channels]
        self.down = nn.ModuleList()
        for level in range(levels):
            for _ in range(flags.n_blocks):
                self.down.append(flags.block(skips[-1], level))
                skips.append(flags.channels(level))
            if level + 1 < levels:
                self.down.append(flags.down(skips[-1]))
                skips.append(skips[-1])
        return skips

    def _build_up(self, channels: int, skips: list[int]) -> None:
        """The way up: the blocks whose maps are the features, and their shapes."""
        flags = self.flags
        self.up, self.shapes = nn.ModuleList(), {}
        for level in reversed(range(len(flags.ch_mults))):
            size = flags.image_size // 2**level
            for _ in range(flags.n_blocks + 1):
                self.up.append(flags.block(channels + skips.pop(), level))
                channels = flags.channels(level)
                self.shapes[len(self.shapes) + 1] = (channels, size, size)
            if level:
                self.up.append(flags.up(channels))

    @no_type_check
    def forward(
        self,
        x_t: Float[Tensor, "batch 3 height width"],
        t: Int[Tensor, " batch"] | Float[Tensor, " batch"],
        given: Given | Tensor | None = None,
        edits: Edits | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Of ddpm the noise (or what `predict` says), of edm the picture D(x_t; sigma).

        t are timesteps; edm's may be noise levels themselves, which are no integers.
        """
        labels, edits = self.check_given(given).augmentation, self.check_edits(edits)
        x, time, factors = self._inputs(x_t, t)
        output = self._through(x, time, labels, edits, t)
        if factors is not None:
            output = factors.skip * x_t + factors.out * output
        return output.to(x_t.dtype)

    @no_type_check
    def bare(
        self,
        x: Float[Tensor, "batch 3 height width"],
        time: Float[Tensor, " batch"],
        labels: Float[Tensor, "batch augment_dim"] | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """The network without its framework: what it answers to an input, a time, and labels."""
        self.check_given(Given(augmentation=labels))
        return self._through(x, time, labels, {}, time).to(x.dtype)

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: Timestep = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Blocks of one pass over images noised to the timestep, which ends with the last one."""
        wanted = self.chosen(blocks)
        x_t, t = self.noised(images, timestep, noise)
        x, time, _ = self._inputs(x_t, t)
        maps: dict[Block, Tensor] = {}
        for number, h in self._maps(x, time, None, {}, t):
            if number in wanted:
                maps[number] = h
            if number == wanted[-1]:
                break
        return maps

    @no_type_check
    def _inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Preconditioning | None]:
        """What the bare network is given, and EDM's factors, in float32 at least."""
        if self.framework == "ddpm":
            return x_t, t / self.process.steps, None
        wide = x_t.to(torch.promote_types(self.final.weight.dtype, torch.float32))
        if t.is_floating_point():
            sigma = broadcast(t, wide)
        else:
            sigma = gather(self.process.noise_levels, t - 1, wide)
        factors = preconditioning(sigma, self.process.sigma_data)
        return factors.input * wide, factors.noise.flatten(), factors

    @no_type_check
    def _through(
        self, x: Tensor, time: Tensor, labels: Tensor | None, edits: Edits, t: Tensor
    ) -> Tensor:
        """The whole pass: what the last convolution says."""
        for _, h in self._maps(x, time, labels, edits, t):  # noqa: B007 - the last one goes on
            pass
        return self.final(F.silu(self.norm(h)))

    @no_type_check
    def _maps(
        self, x: Tensor, time: Tensor, labels: Tensor | None, edits: Edits, t: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """Each block's number and map as the pass comes to it, edited."""
        self._check_size(x)
        embedding = self.time_emb(time, labels)
        h = self.image_proj(x.to(self.image_proj.weight.dtype))
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding)
            skips.append(h)
        h, number = self.middle(h, embedding), 0
        for layer in self.up:
            if not isinstance(layer, layers.LevelBlock):  # to the next size
                h = layer(h, embedding)
                continue
            number += 1
            h = layer(torch.cat([h, skips.pop()], dim=1), embedding)
            if number in edits:
                h = edited(edits[number], h, t, number)
            yield number, h

    @no_type_check
    def _check_size(self, x: Tensor) -> None:
        smallest = 2 ** (len(self.flags.ch_mults) - 1)
        if x.shape[2] % smallest or x.shape[3] % smallest:
            raise UserError(
                f"{self.name} takes pictures whose sides are divisible by {smallest},"
                f" got {x.shape[2]}×{x.shape[3]}: resize or crop them"
            )


def stated_flags(facts: Mapping) -> Mapping:
    """What a file of ours says of the network that it holds: a run's config, or exported flags."""
    config, flags = facts.get("config"), facts.get("flags")
    if isinstance(config, Mapping) and isinstance(config.get("backbone"), Mapping):
        return config["backbone"]
    try:
        settings = json.loads(flags) if isinstance(flags, str) else None
    except ValueError:  # somebody else's word
        return {}
    return settings if isinstance(settings, Mapping) else {}


def plain(value: object) -> object:
    """A sequence as a list, however a file keeps it."""
    return list(value) if isinstance(value, tuple) else value


def checked_prediction(framework: str, predict: str | None) -> str:
    """What a network of this framework answers."""
    if framework not in PREDICTS:
        raise UserError(f"framework is one of {', '.join(PREDICTS)}, got {framework!r}")
    predict = predict or PREDICTS[framework][0]
    if predict not in PREDICTS[framework]:
        choices = ", ".join(PREDICTS[framework])
        raise UserError(f"predict of framework={framework} is one of {choices}, got {predict!r}")
    return predict


def noising(flags: Flags) -> Process:
    """The chain of ddpm, or the noise levels of edm."""
    if flags.framework == "ddpm":
        return linear_chain(flags.n_T, flags.betas)
    return Levels(flags.steps, flags.sigma_min, flags.sigma_max, flags.rho, flags.sigma_data)


def linear_chain(n_T: int, betas: Sequence[int | float]) -> Schedule:
    """Timesteps 1 … n_T with betas from the first to the last (Ho et al. 2020)."""
    if n_T < 1:
        raise UserError(f"n_T is 1 or more, got {n_T}: 1000 is usual")
    if len(betas) != 2 or not 0 < betas[0] < betas[1] < 1:
        raise UserError(
            f"betas are the first and the last, rising within (0, 1), got {list(betas)}: "
            "[0.0001, 0.02] is usual"
        )
    first, last = betas
    return tables(torch.linspace(first, last, n_T, dtype=torch.float64), torch.arange(1, n_T + 1))


def check_flags(flags: Flags) -> None:
    """The sizes and widths that the architecture cannot have."""
    levels = len(flags.ch_mults)
    if not levels or levels != len(flags.is_attn):
        raise UserError(
            f"ch_mults and is_attn have one entry a level, got {levels} and {len(flags.is_attn)}"
        )
    if flags.image_size < 1 or flags.image_size % 2 ** (levels - 1):
        raise UserError(
            f"{levels} levels of ch_mults need a positive image_size divisible by "
            f"{2 ** (levels - 1)}, got {flags.image_size}"
        )
    if flags.n_blocks < 1 or not 0 <= flags.dropout < 1 or flags.augment_dim < 0:
        raise UserError(
            "n_blocks is 1 or more, dropout lies in [0, 1), augment_dim is 0 or more, got "
            f"{flags.n_blocks}, {flags.dropout} and {flags.augment_dim}: 2, 0.1 and 0 are usual"
        )
    for width in (flags.n_channels, *map(flags.channels, range(levels))):
        if width < 1 or width % GROUPS:
            raise UserError(
                f"n_channels and n_channels × ch_mults must be multiples of {GROUPS} at every "
                f"level, got {width}: 128 and [1, 2, 2, 2] are usual"
            )
