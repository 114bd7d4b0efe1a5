"""DiT (Peebles & Xie 2023), a Vision Transformer of noised latents: its flags and features."""

from collections.abc import Iterator, Sequence
from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict.backbones.autoencoders.latents import LatentEncoder
from diffdict.backbones.base import Block, Timestep, combined_sha256
from diffdict.backbones.denoiser import Condition, Denoiser, Edits, Given, edited
from diffdict.backbones.guided_layers import WideLinear, timestep_embedding
from diffdict.backbones.mae import EPS, PatchAttention, positions
from diffdict.diffusion.schedules import make_schedule
from diffdict.errors import UserError

WAVES = 256  # values of the sinusoid that a timestep becomes
FACTOR = 8  # a picture's side over that of its latents, where no autoencoder says otherwise


class DiT(Denoiser):
    """DiT-XL/2 of 256 px unless told; blocks are its transformer blocks, 0 the first.

    It looks at latents, or at pictures through an autoencoder. A label is one of its classes, or
    num_classes, the null class; features are always those of the null class.
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: int | float = 4.0,
        class_dropout_prob: int | float = 0.1,
        num_classes: int = 1000,
        learn_sigma: bool = True,
        *,
        diffusion_steps: int = 1000,
        noise_schedule: str = "linear",
        predict: str = "eps",
        vae: str | None = None,
        name: str = "dit",
        checkpoint: str | None = None,
    ) -> None:
        """`input_size` is the side of the latents; `vae` a folder that diffusers saved.

        class_dropout_prob is the share of labels that training replaces by the null class; with 0
        there is none.
        """
        super().__init__()
        self.name, self.predict, self.learn_sigma = name, predict, learn_sigma
        self.in_channels, self.input_size, self.patch_size = in_channels, input_size, patch_size
        self.num_classes, self.class_dropout_prob = num_classes, class_dropout_prob
        hidden = int(hidden_size * mlp_ratio)
        self._check_flags(hidden_size, depth, num_heads, hidden)
        self.process = make_schedule(noise_schedule, diffusion_steps)
        self.condition = Condition(classes=num_classes)
        self.encoder = None if vae is None else LatentEncoder(vae, in_channels)
        self.decodes = vae is not None
        if self.encoder is None:
            self.image_size = input_size * (1 if in_channels == 3 else FACTOR)
        else:
            self.image_size = input_size * self.encoder.factor
        side, out = input_size // patch_size, in_channels * (2 if learn_sigma else 1)
        self.shapes = dict.fromkeys(range(depth), (hidden_size, side, side))
        table = positions(side, hidden_size)[1:].float()[None]
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(in_channels, hidden_size, patch_size, patch_size)
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = nn.Sequential(
            WideLinear(WAVES, hidden_size), nn.SiLU(), WideLinear(hidden_size, hidden_size)
        )
        self.y_embedder = nn.Module()
        rows = num_classes + (class_dropout_prob > 0)
        self.y_embedder.embedding_table = nn.Embedding(rows, hidden_size)
        self.blocks = nn.ModuleList(
            Conditioned(hidden_size, num_heads, hidden) for _ in range(depth)
        )
        self.final_layer = Final(hidden_size, patch_size**2 * out)
        self._start()
        self.load(checkpoint)

    def _check_flags(self, width: int, depth: int, heads: int, hidden: int) -> None:
        """The sizes that the architecture cannot have."""
        for what, whole, part in (
            ("input_size must be a multiple of patch_size", self.input_size, self.patch_size),
            ("hidden_size must be a multiple of num_heads", width, heads),
            ("hidden_size must be a multiple of 4", width, 4),
        ):
            if part < 1 or whole < 1 or whole % part:
                raise UserError(f"{self.name}'s {what}, got {whole} and {part}")
        for flag, value in (
            ("depth", depth),
            ("in_channels", self.in_channels),
            ("num_classes", self.num_classes),
            ("hidden_size × mlp_ratio", hidden),
        ):
            if value < 1:
                raise UserError(f"{self.name}'s {flag} is 1 or more, got {value}")
        if not 0 <= self.class_dropout_prob < 1:
            raise UserError(
                f"class_dropout_prob lies in [0, 1), got {self.class_dropout_prob}: 0.1 is usual"
            )

    def _start(self) -> None:
        """Weights as the original begins with: every block lets its input through."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)
        time = self.t_embedder.mlp
        for weight in (time[0].weight, time[2].weight, self.y_embedder.embedding_table.weight):
            nn.init.normal_(weight, std=0.02)
        gates = [block.adaLN_modulation[1] for block in (*self.blocks, self.final_layer)]
        for layer in (*gates, self.final_layer.linear):
            nn.init.zeros_(layer.weight)

    @property
    def sha256(self) -> str:
        """Of its weights, and of the autoencoder's through which it looks at pictures."""
        sha256 = super().sha256
        return sha256 if self.encoder is None else combined_sha256(sha256, self.encoder.sha256)

    def noise_shape(self, picture: tuple[int, int, int]) -> tuple[int, int, int]:
        """That of the latents, whatever pictures are like."""
        return self.in_channels, self.input_size, self.input_size

    @no_type_check
    def forward(
        self,
        x_t: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        given: Given | Tensor | None = None,
        edits: Edits | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """The network's prediction for noised latents, twice their channels with learn_sigma.

        Without a label it is that of the null class.
        """
        edits = self.check_edits(edits)
        if given is None or (isinstance(given, Given) and given.label is None):
            given = (given or Given())._replace(label=self._null(x_t))
        label = self.check_given(given).label
        if self.training and self.class_dropout_prob:
            dropped = torch.rand(label.shape, device=label.device) < self.class_dropout_prob
            label = label.masked_fill(dropped, self.num_classes)
        condition = self._condition(t, label)
        for _, x in self._tokens(x_t, t, condition, edits):  # noqa: B007 - the last one goes on
            pass
        out = self.final_layer(x, condition)
        return self._pictured(out).to(x_t.dtype)

    def features(
        self,
        images: Float[Tensor, "batch channels height width"],
        timestep: Timestep = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Blocks of one pass over noised latents, at the null class; maps lie on their patches.

        `images` are pictures in [-1, 1], or latents; `noise` has the latents' shape.
        """
        wanted, maps = self.chosen(blocks), {}
        x_t, t = self.noised(self.prepared(images), timestep, noise)
        for block, x in self._tokens(x_t, t, self._condition(t, self._null(x_t)), {}):
            if block in wanted:
                maps[block] = self._map(x)
            if block == wanted[-1]:
                break
        return maps

    def prepared(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch latents _ _"]:
        """Pictures as latents; what has the latents' channels already is left as it is."""
        if images.shape[1] == self.in_channels:
            return images
        if self.encoder is None:
            raise UserError(
                f"{self.name} looks at latents of {self.in_channels} channels, got pictures: give "
                "the autoencoder that makes them, backbone.vae=FOLDER as diffusers saves it"
            )
        if images.shape[2:] != (self.image_size, self.image_size):
            height, width = images.shape[2:]
            raise UserError(
                f"{self.name} looks at pictures of {self.image_size}×{self.image_size}, got "
                f"{height}×{width}: say dataset.image_size={self.image_size}"
            )
        return self.encoder(images)

    def pictures(
        self, x: Float[Tensor, "batch latents _ _"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Latents as the autoencoder's pictures; without one they are what was denoised."""
        return x if self.encoder is None else self.encoder.decoded(x)

    def _null(self, x: Tensor) -> Int[Tensor, " batch"]:
        """The null class, once a picture."""
        if not self.class_dropout_prob:
            raise UserError(
                f"{self.name} has no null class (class_dropout_prob=0): give it labels, or weights "
                "that know one and backbone.class_dropout_prob=0.1"
            )
        return torch.full((len(x),), self.num_classes, device=x.device)

    @no_type_check
    def _condition(self, t: Tensor, label: Tensor) -> Tensor:
        """What the blocks are told of time and class."""
        time = self.t_embedder.mlp(timestep_embedding(t, WAVES))
        return (time + self.y_embedder.embedding_table(label)).to(self.pos_embed.dtype)

    @no_type_check
    def _tokens(
        self, x_t: Tensor, t: Tensor, condition: Tensor, edits: Edits
    ) -> Iterator[tuple[int, Tensor]]:
        """Each block's number and tokens as the pass comes to it, edited."""
        size = (self.in_channels, self.input_size, self.input_size)
        if x_t.shape[1:] != size:
            raise UserError(
                f"{self.name} takes latents of {'×'.join(map(str, size))}, got "
                f"{'×'.join(map(str, x_t.shape[1:]))}: its input_size and in_channels say so"
            )
        x = self.x_embedder.proj(x_t.to(self.pos_embed.dtype)).flatten(2).mT + self.pos_embed
        for number, block in enumerate(self.blocks):
            x = block(x, condition)
            if number in edits:
                x = edited(edits[number], self._map(x), t, number).flatten(2).mT
            yield number, x

    @no_type_check
    def _map(self, tokens: Tensor) -> Tensor:
        """Tokens at their places: patches run row by row."""
        return tokens.mT.unflatten(2, self.shapes[0][1:])

    @no_type_check
    def _pictured(self, tokens: Tensor) -> Tensor:
        """Every token's values at the places of its patch."""
        side, patch = self.shapes[0][1], self.patch_size
        x = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
        x = x.permute(0, 5, 1, 3, 2, 4)  # channel, row, patch row, column, patch column
        return x.flatten(4, 5).flatten(2, 3)


@no_type_check
def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens, normed without weights of their own, as the condition wants them."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[:, None]) + shift[:, None]


@no_type_check
class Conditioned(nn.Module):
    """A transformer block whose norms and gates are functions of time and class (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = PatchAttention(width, heads)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, 1)
        x = x + gate1[:, None] * self.attn(modulated(x, shift1, scale1))
        h = F.gelu(self.mlp.fc1(modulated(x, shift2, scale2)), approximate="tanh")
        return x + gate2[:, None] * self.mlp.fc2(h)


@no_type_check
class Final(nn.Module):
    """The last norm, a function of the condition too, and what each patch becomes."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, 1)
        return self.linear(modulated(x, shift, scale))
