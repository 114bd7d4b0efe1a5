"""What all sparse autoencoders share: the tokens' standard form, the dictionary, dead latents."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from diffdict.errors import UserError
from diffdict.sae.sparse import Codes, pre_activations, weighted_rows

CHUNK = 2**25  # dense codes decoded or measured at once
MOST = 10**8  # latents: more are a slip of the finger, and would fill any memory
REVIVED = 0.2  # length of a revived encoder row over that of the living (Bricken et al. 2023)


class Output(NamedTuple):
    """What a dictionary says of a batch of tokens."""

    loss: Float[Tensor, ""]  # to be minimised
    parts: dict[str, Tensor]  # of the loss, unweighted: mse, sparsity, aux
    reconstruction: Float[Tensor, "tokens d_in"]  # of the raw tokens; carries no gradient
    codes: Codes | Float[Tensor, "tokens latents"]  # a matrix while most latents are active
    active: Int64[Tensor, " latents"]  # tokens of this batch in which each is above zero


class Learned(NamedTuple):
    """The same, between a variant and `forward`: in standard form, with gradients."""

    reconstruction: Float[Tensor, "tokens d_in"]
    codes: Codes | Float[Tensor, "tokens latents"]
    penalties: dict[str, tuple[float, Tensor]]  # weight and value of what is not the squared error
    mse: Tensor | None = None  # where it is not that of the reconstruction
    active: Int64[Tensor, " latents"] | None = None  # where the variant has counted them


class Sae(nn.Module):
    """Tokens → a few active latents → tokens.

    A raw token enters as (x − mean) · token_scale, of mean square 1 a dimension, and losses are
    taken there. Rows of `W_dec` are the dictionary.
    """

    architecture = ""  # the variant's own word
    inference = ""  # what it is with fixed weights, as SAELens says it; "": nothing that it knows
    told = ("centre", "normalise", "dead_after")  # what an export says of the constructor's options
    resamples = False  # whether dead latents are revived from outside
    ranked: int | None = None  # at inference only so many largest of a token are active

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
        dead_after: int = 1_000_000,
        seed: int = 0,
    ) -> None:
        """`latents`, where given, counts instead of `scale` latents per input dimension.

        `normalise`: rows are brought to length 1 after each step, in each forward pass, or never.
        `centre`: b_dec starts at the tokens' mean or at their geometric median.
        """
        super().__init__()
        self.d_in, self.latents = d_in, _latents(d_in, scale, latents)
        _known("centre", centre, ("mean", "median"))
        _known("decoder_init", decoder_init, ("random", "orthogonal"))
        _known("normalise", normalise, ("step", "forward", "none"))
        if dead_after < 1:
            raise UserError(f"sae.dead_after counts tokens and is at least 1, got {dead_after}")
        if seed < 0:
            raise UserError(f"sae.seed must not be negative, got {seed}: sae.seed=0")
        self.centre, self.normalise, self.dead_after = centre, normalise, dead_after
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

    # ------------------------------------------------------------------ use

    @property
    def options(self) -> dict[str, object]:
        """What the constructor must be told, beside sizes and standard form, to make this one."""
        return {name: getattr(self, name) for name in self.told}

    @property
    def dictionary(self) -> Float[Tensor, "latents d_in"]:
        """The directions, of length 1 unless `normalise` is none."""
        return F.normalize(self.W_dec, dim=1) if self.normalise == "forward" else self.W_dec

    def standard(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Raw tokens in standard form, float32."""
        return (x.float() - self.mean) * self.token_scale

    def raw(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Back from standard form."""
        return x / self.token_scale + self.mean

    def pre(
        self,
        x: Float[Tensor, "tokens d_in"],
        part: slice | Int64[Tensor, " part"] = slice(None),
    ) -> Float[Tensor, "tokens part"]:
        """Pre-activations of raw tokens, of some latents or all: affine in x."""
        weight, bias = self.W_enc[part], self.b_enc[part]
        return pre_activations(self.standard(x), self.b_dec, weight, bias)

    def activate(
        self, pre: Float[Tensor, "tokens part"], part: slice = slice(None)
    ) -> Float[Tensor, "tokens part"]:
        """Codes from pre-activations, as at inference; `part` says which latents they are."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens latents"]:
        """Codes of raw tokens as a matrix."""
        return self.activate(self.pre(_tokens(x, self.d_in)))

    @torch.no_grad()
    def encode_sparse(self, x: Float[Tensor, "tokens d_in"]) -> Codes:
        """The same codes as a list of what is active; never tokens × latents at once."""
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

    # ------------------------------------------------------------------ learning

    def forward(self, x: Float[Tensor, "tokens d_in"], pressure: float = 1.0) -> Output:
        """The loss of raw tokens; `pressure` is the share of the sparsity penalty that counts."""
        x = self.standard(_tokens(x, self.d_in))
        learned = self.learn(x, pressure)
        mse = (learned.reconstruction - x).square().mean()
        loss = mse if learned.mse is None else learned.mse
        for weight, value in learned.penalties.values():
            loss = loss + weight * value
        parts = {"mse": mse} | {name: value for name, (_, value) in learned.penalties.items()}
        codes = learned.codes
        if isinstance(codes, Codes):
            codes = codes._replace(values=codes.values.detach())
            active = torch.bincount(codes.latents[codes.values > 0], minlength=self.latents)
        else:
            codes, active = codes.detach(), learned.active
        return Output(
            loss,
            {name: value.detach() for name, value in parts.items()},
            self.raw(learned.reconstruction.detach().float()),
            codes,
            active,
        )

    def learn(self, x: Float[Tensor, "tokens d_in"], pressure: float) -> Learned:
        """What the variant makes of tokens in standard form."""
        raise NotImplementedError

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Takes from each row's gradient what would only change its length."""
        if self.normalise == "step" and self.W_dec.grad is not None:
            grad = self.W_dec.grad
            along = torch.linalg.vecdot(grad, self.W_dec)
            grad.addcmul_(along[:, None], self.W_dec, value=-1)

    @torch.no_grad()
    def unit_norm(self) -> None:
        """Brings every row of the dictionary back to length 1."""
        if self.normalise == "step":
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))

    @torch.no_grad()
    def set_centre(self, x: Float[Tensor, "tokens d_in"], rounds: int = 50) -> None:
        """Starts b_dec at the geometric median of raw tokens, where it is asked for (Weiszfeld)."""
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
        """Latents that were silent for a whole window of tokens."""
        return self.silent >= self.dead_after

    def count(self, fired: Bool[Tensor, " latents"], tokens: int) -> None:
        """So many more tokens have been seen, and these latents were active in them."""
        self.silent.add_(tokens).masked_fill_(fired, 0)

    @property
    def starts(self) -> dict[nn.Parameter, float]:
        """Parameters of one number a latent, and where each begins."""
        return {self.b_enc: 0.0}

    @torch.no_grad()
    def revive(
        self,
        which: Int64[Tensor, " revived"],
        directions: Float[Tensor, "revived d_in"],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Starts latents anew along these tokens in standard form (Bricken et al. 2023)."""
        rows = F.normalize(directions - self.b_dec, dim=1)
        alive = ~self.dead
        lengths = torch.linalg.vector_norm(self.W_enc[alive], dim=1)
        length = lengths.mean() if alive.any() else torch.ones((), device=rows.device)
        self.W_dec[which] = rows
        self.W_enc[which] = REVIVED * length * rows
        for parameter, start in self.starts.items():
            parameter[which] = start
        self.silent[which] = 0
        for parameter in (self.W_dec, self.W_enc, *self.starts) if optimizer else ():
            for name, state in optimizer.state.get(parameter, {}).items():
                if name != "step":
                    state[which] = 0


def _latents(d_in: int, scale: float | int, latents: int | None) -> int:
    said = f"sae.scale={scale} of {d_in} dimensions" if latents is None else f"latents={latents}"
    wide = scale * d_in if latents is None else latents
    if wide > MOST:
        raise UserError(f"A dictionary has at most {MOST} latents, got {said}: lower sae.scale")
    if not wide > 0.5:
        raise UserError(f"A dictionary has at least 1 latent, got {said}: raise sae.scale")
    return round(wide)


def _known(key: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise UserError(f"sae.{key} is {' or '.join(words)}, got {value!r}")


def _tokens(x: Tensor, d_in: int) -> Tensor:
    """The tokens, or a sentence about their shape (silent broadcasting costs memory and sense)."""
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
    """As nn.Linear starts its weights."""
    return nn.init.kaiming_uniform_(torch.empty_like(like), a=5**0.5, generator=generator)
