"""The base class of sparse autoencoders: standard form of tokens, dictionary, dead latents."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from diffdict.errors import UserError
from diffdict.sae.sparse import Codes, pre_activations, weighted_rows

CHUNK = 2**25  # dense codes computed at once
MOST = 10**8  # latents: more are a typing error, and would fill any memory
REVIVED = 0.2  # norm of a revived encoder row over the mean of live ones (Bricken et al. 2023)


class Output(NamedTuple):
    """The result of a dictionary's forward pass on a batch of tokens."""

    loss: Float[Tensor, ""]  # with gradients
    parts: dict[str, Tensor]  # of the loss, unweighted: mse, sparsity, aux
    reconstruction: Float[Tensor, "tokens d_in"]  # of the raw tokens; carries no gradient
    codes: Codes | Float[Tensor, "tokens latents"]  # a matrix while most latents are active
    active: Int64[Tensor, " latents"]  # number of tokens in this batch that activate each latent


class TrainingOutput(NamedTuple):
    """What a variant returns to `forward`: in standard form, with gradients."""

    reconstruction: Float[Tensor, "tokens d_in"]
    codes: Codes | Float[Tensor, "tokens latents"]
    penalties: dict[str, tuple[float, Tensor]]  # weight and value of each term beside the MSE
    mse: Tensor | None = None  # if it differs from that of the reconstruction
    active: Int64[Tensor, " latents"] | None = None  # if the variant has counted them


class Sae(nn.Module):
    """Encodes tokens as a few active latents, and decodes those.

    In standard form a token is (x − mean) · token_scale, whose mean square is 1 per dimension;
    losses are computed in this form. The rows of `W_dec` are the dictionary.
    """

    architecture = ""  # the name of the variant
    inference = ""  # SAELens's name of what it computes with fixed weights; "" if it has none
    # constructor arguments that an exported file records
    exported_options = ("centre", "normalise", "apply_b_dec_to_input", "dead_after")
    resamples = False  # whether the task revives dead latents
    ranked: int | None = None  # if set, only a token's k largest latents are active at inference

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        *,
        scale: float | int = 20,
        latents: int | None = None,
        standardise: bool = True,
        centre: str = "mean",
        decoder_init: str = "random",
        tied: bool = True,
        normalise: str = "step",
        apply_b_dec_to_input: bool = True,
        dead_after: int = 1_000_000,
        seed: int = 0,
    ) -> None:
        """The number of latents is `latents` if set, else `scale` times the input dimension.

        `normalise`: rows are brought to length 1 after each step, in each forward pass, or never.
        `centre`: b_dec starts at the tokens' mean or geometric median; with linear both biases
        start as in nn.Linear. `apply_b_dec_to_input`: the encoder's input is x − b_dec, not x.
        """
        super().__init__()
        self.d_in, self.latents = d_in, _latents(d_in, scale, latents)
        _check_word("centre", centre, ("mean", "median", "linear"))
        _check_word("decoder_init", decoder_init, ("random", "orthogonal"))
        _check_word("normalise", normalise, ("step", "forward", "none"))
        if dead_after < 1:
            raise UserError(f"sae.dead_after counts tokens and is at least 1, got {dead_after}")
        if seed < 0:
            raise UserError(f"sae.seed must not be negative, got {seed}: sae.seed=0")
        self.centre, self.normalise, self.dead_after = centre, normalise, dead_after
        self.apply_b_dec_to_input = apply_b_dec_to_input
        here = mean if standardise and mean is not None else torch.zeros(d_in)
        self.register_buffer("mean", here.detach().float().clone())
        self.register_buffer("token_scale", torch.tensor(float(token_scale if standardise else 1)))
        self.register_buffer("silent", torch.zeros(self.latents, dtype=torch.int64))
        self.register_buffer("frequency", torch.zeros(self.latents))
        generator = torch.Generator().manual_seed(seed)
        rows = _start(decoder_init, self.latents, d_in, generator)
        self.W_dec = nn.Parameter(rows)
        encoder = rows.clone() if tied else _linear_start(rows, generator)
        self.W_enc = nn.Parameter(encoder)
        self.b_enc = nn.Parameter(torch.zeros(self.latents))
        start = torch.zeros(d_in) if standardise or mean is None else mean.detach().float().clone()
        self.b_dec = nn.Parameter(start)
        if centre == "linear":
            nn.init.uniform_(self.b_enc, -(d_in**-0.5), d_in**-0.5, generator)
            nn.init.uniform_(self.b_dec, -(self.latents**-0.5), self.latents**-0.5, generator)

    @torch.no_grad()
    def repeat_rows(self, parts: int) -> None:
        """Rows that start alike in each of so many equal parts of a token: else the cosine of a
        row's parts would say how they started."""
        tied = torch.equal(self.W_enc, self.W_dec)
        rows = self.W_dec[:, : self.d_in // parts].repeat(1, parts)
        self.W_dec.copy_(F.normalize(rows, dim=1))
        if tied:
            self.W_enc.copy_(self.W_dec)

    # ------------------------------------------------------------------ use

    @property
    def options(self) -> dict[str, object]:
        """The constructor arguments of this dictionary, beside sizes and standard form."""
        return {name: getattr(self, name) for name in self.exported_options}

    @property
    def dictionary(self) -> Float[Tensor, "latents d_in"]:
        """The directions, of length 1 unless `normalise` is none."""
        return F.normalize(self.W_dec, dim=1) if self.normalise == "forward" else self.W_dec

    @property
    def input_centre(self) -> Float[Tensor, " d_in"]:
        """What is subtracted from tokens in standard form before the encoder."""
        return self.b_dec if self.apply_b_dec_to_input else torch.zeros_like(self.b_dec)

    def standard(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Brings raw tokens to standard form, in float32."""
        return (x.float() - self.mean) * self.token_scale

    def raw(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Brings tokens back from standard form."""
        return x / self.token_scale + self.mean

    def pre(
        self,
        x: Float[Tensor, "tokens d_in"],
        part: slice | Int64[Tensor, " part"] = slice(None),
    ) -> Float[Tensor, "tokens part"]:
        """Pre-activations of some latents, or all, for raw tokens; affine in x."""
        weight, bias = self.W_enc[part], self.b_enc[part]
        return pre_activations(self.standard(x), self.input_centre, weight, bias)

    def activate(
        self,
        pre: Float[Tensor, "tokens part"],
        part: slice | Int64[Tensor, " part"] = slice(None),
    ) -> Float[Tensor, "tokens part"]:
        """Codes from pre-activations, as at inference; `part` selects the latents."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens latents"]:
        """Codes of raw tokens as a matrix."""
        return self.activate(self.pre(_tokens(x, self.d_in)))

    @torch.no_grad()
    def encode_sparse(self, x: Float[Tensor, "tokens d_in"]) -> Codes:
        """The same codes as a list of active entries, without a matrix of tokens × latents."""
        parts = []
        for some in _tokens(x, self.d_in).split(max(1, CHUNK // self.latents)):
            codes = self.encode(some)
            token, latent = codes.nonzero(as_tuple=True)
            counts = torch.bincount(token, minlength=len(some))
            parts.append((counts, latent, codes[token, latent]))
        counts, latent, values = (torch.cat(each) for each in zip(*parts, strict=True))
        return Codes(F.pad(counts.cumsum(0), (1, 0)), latent, values)

    @torch.no_grad()
    def decode(
        self, codes: Float[Tensor, "tokens latents"] | Codes
    ) -> Float[Tensor, "tokens d_in"]:
        """Raw tokens from codes."""
        if isinstance(codes, Codes):
            values = codes.values.to(self.W_dec.dtype)
            sums = weighted_rows(self.dictionary, codes.latents, codes.starts, values)
        else:
            sums = codes.to(self.W_dec.dtype) @ self.dictionary
        return self.raw(sums + self.b_dec)

    # ------------------------------------------------------------------ training

    def forward(self, x: Float[Tensor, "tokens d_in"], pressure: float = 1.0) -> Output:
        """The loss on raw tokens; `pressure` is the share of the sparsity penalty that counts."""
        x = self.standard(_tokens(x, self.d_in))
        output = self.training_forward(x, pressure)
        mse = (output.reconstruction - x).square().mean()
        loss = mse if output.mse is None else output.mse
        for weight, value in output.penalties.values():
            loss = loss + weight * value
        parts = {"mse": mse} | {name: value for name, (_, value) in output.penalties.items()}
        codes = output.codes
        if isinstance(codes, Codes):
            codes = codes._replace(values=codes.values.detach())
            active = torch.bincount(codes.latents[codes.values > 0], minlength=self.latents)
        else:
            codes, active = codes.detach(), output.active
        return Output(
            loss,
            {name: value.detach() for name, value in parts.items()},
            self.raw(output.reconstruction.detach().float()),
            codes,
            active,
        )

    def training_forward(self, x: Float[Tensor, "tokens d_in"], pressure: float) -> TrainingOutput:
        """The variant's forward pass in training, on tokens in standard form."""
        raise NotImplementedError

    @torch.no_grad()
    def compile_dense(self) -> None:
        """Compiles the training step's dense products, where there are some."""

    def remove_parallel_gradient(self) -> None:
        """Removes from each row's gradient the part that only changes the row's length."""
        if self.normalise == "step" and self.W_dec.grad is not None:
            grad = self.W_dec.grad
            parallel = torch.linalg.vecdot(grad, self.W_dec)
            grad.addcmul_(parallel[:, None], self.W_dec, value=-1)

    @torch.no_grad()
    def unit_norm(self) -> None:
        """Normalises every row of the dictionary to length 1."""
        if self.normalise == "step":
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))

    @torch.no_grad()
    def set_centre(self, x: Float[Tensor, "tokens d_in"], rounds: int = 50) -> None:
        """Sets b_dec to the geometric median of raw tokens, if `centre` is median (Weiszfeld)."""
        if self.centre != "median":
            return
        x = self.standard(x)
        middle = x.mean(0)
        for _ in range(rounds):
            weight = 1 / torch.linalg.vector_norm(x - middle, dim=1).clamp(min=1e-6)
            middle = weight @ x / weight.sum()
        self.b_dec.copy_(middle)

    # ------------------------------------------------------------------ dead latents

    @property
    def dead(self) -> Bool[Tensor, " latents"]:
        """Latents that were inactive on the last `dead_after` tokens."""
        return self.silent >= self.dead_after

    def count(self, fired: Bool[Tensor, " latents"], tokens: int) -> None:
        """Counts `tokens` more tokens, on which the latents in `fired` were active."""
        self.silent.add_(tokens).masked_fill_(fired, 0)

    @property
    def starts(self) -> dict[nn.Parameter, float]:
        """Parameters with one number per latent, and the initial value of each."""
        return {self.b_enc: 0.0}

    @property
    def biases(self) -> tuple[nn.Parameter, ...]:
        """The biases that are added to the encoder's products."""
        return (self.b_enc,)

    @torch.no_grad()
    def revive(
        self,
        which: Int64[Tensor, " revived"],
        directions: Float[Tensor, "revived d_in"],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Restarts latents in the directions of these tokens in standard form (Bricken 2023)."""
        rows = F.normalize(directions - self.b_dec, dim=1)
        alive = ~self.dead
        lengths = torch.linalg.vector_norm(self.W_enc[alive], dim=1)
        length = lengths.mean() if alive.any() else torch.ones((), device=rows.device)
        self.W_dec[which] = rows
        self.W_enc[which] = REVIVED * length * rows
        for parameter, start in self.starts.items():
            parameter[which] = start
        offset = self.W_enc[which] @ (self.b_dec - self.input_centre)
        for bias in self.biases:  # so that the pre-activation is 0 at b_dec
            bias[which] -= offset
        self.silent[which] = 0
        for parameter in (self.W_dec, self.W_enc, *self.starts) if optimizer else ():
            for name, state in optimizer.state.get(parameter, {}).items():
                if name != "step":
                    state[which] = 0


def _latents(d_in: int, scale: float | int, latents: int | None) -> int:
    size = f"sae.scale={scale} of {d_in} dimensions" if latents is None else f"latents={latents}"
    wide = scale * d_in if latents is None else latents
    if wide > MOST:
        raise UserError(f"A dictionary has at most {MOST} latents, got {size}: lower sae.scale")
    if not wide > 0.5:
        raise UserError(f"A dictionary has at least 1 latent, got {size}: raise sae.scale")
    return round(wide)


def _check_word(key: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise UserError(f"sae.{key} is {' or '.join(words)}, got {value!r}")


def _tokens(x: Tensor, d_in: int) -> Tensor:
    """The tokens, after a check of their shape, which would otherwise broadcast silently."""
    if x.ndim != 2 or x.shape[1] != d_in:
        raise UserError(
            f"A dictionary of width {d_in} takes tokens [any, {d_in}], got {list(x.shape)}"
        )
    return x


def _start(how: str, latents: int, d_in: int, generator: torch.Generator) -> Tensor:
    rows = torch.empty(latents, d_in)
    if how == "orthogonal":
        return nn.init.orthogonal_(rows, generator=generator)
    return F.normalize(nn.init.normal_(rows, generator=generator), dim=1)


def _linear_start(like: Tensor, generator: torch.Generator) -> Tensor:
    """Weights initialised as in nn.Linear."""
    return nn.init.kaiming_uniform_(torch.empty_like(like), a=5**0.5, generator=generator)
