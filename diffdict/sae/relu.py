"""Dictionaries whose latents decide one by one: ReLU, gated, JumpReLU."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from diffdict.errors import UserError
from diffdict.sae.base import Sae, TrainingOutput
from diffdict.sae.selection import Chosen, chosen_above
from diffdict.sae.sparse import Codes, decode_entries, encode_chosen, pre_activations

SPARSE_BELOW = 0.03  # density under which work by entries is faster than matrix products


At = Callable[[Tensor], Tensor]  # of a parameter [latents], what belongs to the pre-activations
Decode = Callable[[Tensor, Tensor], Tensor]  # codes and rows -> sums


class Elementwise(Sae):
    """Codes that are a function of one pre-activation each; dense at first, by entries once sparse.

    Both ways run the variant's own two formulas, over tokens × latents or over entries: `code`,
    and `costs` of what is active. Below `floor` neither has a value or a gradient.
    """

    exported_options = (*Sae.exported_options, "sparsity")
    resamples = True

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        *,
        sparsity: float | int = 1.0,
        **shape: object,
    ) -> None:
        """`sparsity` is the weight of what active latents cost."""
        super().__init__(d_in, mean, token_scale, **shape)
        if sparsity < 0:
            raise UserError(f"sae.sparsity must not be negative, got {sparsity}")
        self.sparsity = sparsity
        self.register_buffer("density", torch.tensor(1.0))  # of the last batch
        if shape.get("tied", True):  # half of so many overlapping rows would sum to far too much
            self.W_enc.data *= min(1.0, 2 * d_in / self.latents)

    def code(self, pre: Tensor, at: At) -> Tensor:
        """The code of each pre-activation."""
        raise NotImplementedError

    def costs(self, pre: Tensor, codes: Tensor, at: At) -> Tensor:
        """What each one costs before the weight `sparsity`."""
        raise NotImplementedError

    @property
    def floor(self) -> Float[Tensor, "*latents"]:
        """Pre-activations up to here do nothing at all."""
        return torch.zeros((), device=self.b_enc.device)

    def extra(self, pre: Tensor, x: Tensor, decode: Decode) -> dict[str, tuple[float, Tensor]]:
        """Further terms of the loss."""
        return {}

    def activate(
        self,
        pre: Float[Tensor, "tokens part"],
        part: slice | Int64[Tensor, " part"] = slice(None),
    ) -> Float[Tensor, "tokens part"]:
        """Each code from its own pre-activation."""
        return self.code(pre, lambda parameter: parameter[part])

    def training_forward(self, x: Float[Tensor, "tokens d_in"], pressure: float) -> TrainingOutput:
        """By matrix products while many latents are active, then by entries."""
        if self.density.item() < SPARSE_BELOW:
            output = self._by_entries(x, pressure)
            active = (output.codes.values > 0).sum()
        else:
            output = self._by_matrix(x, pressure)
            active = output.active.sum()
        if self.training:
            self.density.copy_(active / (len(x) * self.latents))
        return output

    def compile_dense(self) -> None:
        """Compiles the matrix products and all between them."""
        self._by_matrix = torch.compile(self._by_matrix)

    def _by_matrix(self, x: Tensor, pressure: float) -> TrainingOutput:
        pre = pre_activations(x, self.input_centre, self.W_enc, self.b_enc)
        codes = self.code(pre, lambda parameter: parameter)
        terms = self._terms(pre, codes, x, pressure, lambda parameter: parameter, torch.matmul)
        sums = _product(codes, self.dictionary)
        active = (codes > 0).sum(0)
        return TrainingOutput(sums + self.b_dec, codes, terms, active=active)

    def _by_entries(self, x: Tensor, pressure: float) -> TrainingOutput:
        entries, pre = encode_chosen(x, self.input_centre, self.W_enc, self.b_enc, self._choose)
        at = lambda parameter: parameter.index_select(0, entries.chosen)  # noqa: E731
        values = self.code(pre, at)
        decode = lambda codes, rows: decode_entries(codes, rows, entries)  # noqa: E731
        terms = self._terms(pre, values, x, pressure, at, decode)
        sums = decode(values, self.dictionary)
        return TrainingOutput(
            sums + self.b_dec, Codes(entries.starts, entries.chosen, values), terms
        )

    def _choose(self, pre: Tensor) -> Chosen:
        return chosen_above(pre, self.floor.detach().to(pre.dtype))

    def _terms(
        self, pre: Tensor, codes: Tensor, x: Tensor, pressure: float, at: At, decode: Decode
    ) -> dict[str, tuple[float, Tensor]]:
        cost = self.costs(pre, codes, at).sum(dtype=torch.float32) / x.numel()
        return {"sparsity": (self.sparsity * pressure, cost), **self.extra(pre, x, decode)}


def _product(codes: Tensor, rows: Tensor) -> Tensor:
    """codes · rows in the codes' dtype, summed on in float32."""
    return (codes @ rows.to(codes.dtype)).float()


class Relu(Elementwise):
    """max(0, pre), paid by size: L1 / d_in a token."""

    architecture, inference = "relu", "standard"

    def code(self, pre: Tensor, at: At) -> Tensor:
        """What is positive."""
        return pre.relu()

    def costs(self, pre: Tensor, codes: Tensor, at: At) -> Tensor:
        """Its size."""
        return codes


class Gated(Elementwise):
    """A gate decides, a magnitude along the same direction says how much (arXiv 2404.16014)."""

    architecture = inference = "gated"

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        **options: object,
    ) -> None:
        """As every elementwise one; `W_enc` and `b_enc` are the gate's."""
        super().__init__(d_in, mean, token_scale, **options)
        self.r_mag = nn.Parameter(torch.zeros(self.latents))
        self.b_mag = nn.Parameter(torch.zeros(self.latents))

    @property
    def starts(self) -> dict[nn.Parameter, float]:
        """The magnitude's too."""
        return {self.b_enc: 0.0, self.r_mag: 0.0, self.b_mag: 0.0}

    @property
    def biases(self) -> tuple[nn.Parameter, ...]:
        """The gate's and the magnitude's."""
        return self.b_enc, self.b_mag

    def code(self, pre: Tensor, at: At) -> Tensor:
        """The magnitude where the gate is open."""
        size = at(self.r_mag).exp() * (pre - at(self.b_enc)) + at(self.b_mag)
        return size.relu() * (pre > 0)

    def costs(self, pre: Tensor, codes: Tensor, at: At) -> Tensor:
        """How far the gate is open: shrinks the gate, not the magnitude."""
        return pre.relu()

    def extra(self, pre: Tensor, x: Tensor, decode: Decode) -> dict[str, tuple[float, Tensor]]:
        """The gate must reconstruct too, through a frozen dictionary (eq. 8)."""
        gate = decode(pre.relu(), self.dictionary.detach().to(pre.dtype)).float()
        return {"aux": (1.0, (gate + self.b_dec.detach() - x).square().mean())}


class JumpRelu(Elementwise):
    """pre above a learned threshold, else 0; paid by number: L0 / d_in (arXiv 2407.14435).

    The thresholds are learned as they are: their logarithms barely move under Adam.
    """

    architecture = inference = "jumprelu"
    exported_options = (*Elementwise.exported_options, "bandwidth")

    def __init__(
        self,
        d_in: int,
        mean: Float[Tensor, " d_in"] | None = None,
        token_scale: float | int = 1.0,
        *,
        bandwidth: float | int = 0.5,
        threshold: float | int = 0.1,
        **options: object,
    ) -> None:
        """`bandwidth`: the range of pre-activations around a threshold that move it."""
        super().__init__(d_in, mean, token_scale, **options)
        if not bandwidth > 0:
            raise UserError(f"sae.bandwidth must be positive, got {bandwidth}")
        self.bandwidth = bandwidth
        self.start = float(threshold)
        self.threshold = nn.Parameter(torch.full((self.latents,), self.start))

    @property
    def starts(self) -> dict[nn.Parameter, float]:
        """The threshold's too: one that has run away would keep a revived latent dead."""
        return {self.b_enc: 0.0, self.threshold: self.start}

    @property
    def floor(self) -> Float[Tensor, " latents"]:
        """The lower edge of the band."""
        return (self.threshold - self.bandwidth / 2).clamp(min=0)

    def code(self, pre: Tensor, at: At) -> Tensor:
        """What lies above the threshold, unshrunk."""
        return _Jump.apply(pre, at(self.threshold), self.bandwidth)

    def costs(self, pre: Tensor, codes: Tensor, at: At) -> Tensor:
        """One for each that is active."""
        return _Step.apply(pre, at(self.threshold), self.bandwidth)


class _Jump(torch.autograd.Function):
    """z·H(z − θ); θ's gradient through a rectangle of some width (eq. 11)."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return z * (z > threshold.clamp(min=0))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        z, threshold = ctx.saved_tensors
        inside = ((z - threshold).abs() < ctx.width / 2) & (z > 0)
        to_threshold = (grad * inside).float() * (-threshold / ctx.width)
        to_z = grad * (z > threshold.clamp(min=0))
        return to_z, to_threshold.sum_to_size(threshold.shape).to(threshold.dtype), None


class _Step(torch.autograd.Function):
    """H(z − θ), with the same rectangle (eq. 12)."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return (z > threshold.clamp(min=0)).to(z.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor, None]:
        z, threshold = ctx.saved_tensors
        inside = ((z - threshold).abs() < ctx.width / 2) & (z > 0)
        to_threshold = (grad * inside).float() * (-1 / ctx.width)
        return None, to_threshold.sum_to_size(threshold.shape).to(threshold.dtype), None
